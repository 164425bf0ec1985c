//! The embedded fonts: which one has a character, and how wide a text becomes.

use std::sync::LazyLock;

use krilla::text::Font;
use rustybuzz::UnicodeBuffer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    Regular,
    Bold,
}

pub struct Face {
    pub font: Font,
    shaper: rustybuzz::Face<'static>,
}

/// Regular, bold, and the one that has what they lack.
static FACES: LazyLock<[Face; 3]> = LazyLock::new(|| {
    let files: [&'static [u8]; 3] = [
        include_bytes!("../../../fonts/hanken-grotesk-400.ttf"),
        include_bytes!("../../../fonts/hanken-grotesk-600.ttf"),
        include_bytes!("../../../fonts/dejavu-sans.ttf"),
    ];
    files.map(|file| Face {
        font: Font::new(file.into(), 0).expect("an embedded font is a font"),
        shaper: rustybuzz::Face::from_slice(file, 0).expect("an embedded font is a font"),
    })
});

/// What no font has is printed as this, so that no name can keep an invoice from being printed (PDF/A refuses a text with
/// glyphs that are not there). HTML and JSON have every character.
const LACKING: char = '\u{fffd}';

impl Face {
    fn has(&self, c: char) -> bool {
        self.shaper.glyph_index(c).is_some()
    }

    #[allow(clippy::cast_precision_loss)] // advances are a few thousand units
    pub fn width(&self, text: &str, size: f32) -> f32 {
        let mut buffer = UnicodeBuffer::new();
        buffer.push_str(text);
        buffer.guess_segment_properties();
        let shaped = rustybuzz::shape(&self.shaper, &[], buffer);
        let units: i32 = shaped.glyph_positions().iter().map(|glyph| glyph.x_advance).sum();
        units as f32 / self.shaper.units_per_em() as f32 * size
    }
}

/// The text with only characters that can be printed.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if !c.is_control() && FACES.iter().any(|face| face.has(c)) { c } else { LACKING }).collect()
}

/// A printable text cut where the font changes.
pub fn runs(text: &str, weight: Weight) -> Vec<(&'static Face, &str)> {
    let faces = &*FACES;
    let preferred = usize::from(weight == Weight::Bold);
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (at, c) in text.char_indices() {
        let face = if faces[preferred].has(c) { preferred } else { 2 };
        match found.last() {
            // A space between two words of the other font stays in it.
            Some((current, _)) if *current == face || c == ' ' => {}
            _ => found.push((face, at)),
        }
    }
    let ends = found.iter().skip(1).map(|(_, at)| *at).chain([text.len()]).collect::<Vec<_>>();
    found.into_iter().zip(ends).map(|((face, from), to)| (&faces[face], &text[from..to])).collect()
}

pub fn width(text: &str, weight: Weight, size: f32) -> f32 {
    runs(text, weight).into_iter().map(|(face, run)| face.width(run, size)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_printed_whatever_is_in_it() {
        assert_eq!(printable("Łódź Ω Я ش 漢\u{1f980}\u{7}"), "Łódź Ω Я ش \u{fffd}\u{fffd}\u{fffd}");
        let cut: Vec<_> = runs("Acme Ω Я Ltd", Weight::Regular).into_iter().map(|(_, run)| run).collect();
        assert_eq!(cut.concat(), "Acme Ω Я Ltd");
        assert!(width("mm", Weight::Regular, 10.0) > width("m", Weight::Regular, 10.0) * 1.9);
        assert!(runs("", Weight::Bold).is_empty());
    }
}
