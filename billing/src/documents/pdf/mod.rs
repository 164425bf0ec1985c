//! A document as PDF/A-2u: archivable, its fonts embedded, its text searchable. [`layout`] places texts and rules on
//! pages, [`fonts`] measures them, and krilla writes the file. The same document gives the same bytes.

mod fonts;
mod layout;

use chrono::{DateTime, Datelike, Timelike, Utc};
use krilla::color::luma;
use krilla::configure::{Archival, ConfigurationBuilder, Validator};
use krilla::geom::{PathBuilder, Point, Transform};
use krilla::metadata::{DateTime as PdfDateTime, Metadata};
use krilla::num::NormalizedF32;
use krilla::page::PageSettings;
use krilla::paint::{Fill, Stroke};
use krilla::surface::Surface;
use krilla::text::TextDirection;
use krilla::{Document, SerializeSettings};

use super::view::View;
use crate::BillingError;
use layout::{HEIGHT, Mark, WIDTH};

fn failed(error: impl std::fmt::Display) -> BillingError {
    BillingError::unreadable("a document", error)
}

/// Takes some milliseconds of computing: call it where blocking is allowed. `id` and `made_at` become part of the file, and
/// must be the document's own rather than this moment's.
pub fn print(view: &View, id: &str, made_at: DateTime<Utc>) -> Result<Vec<u8>, BillingError> {
    let configuration = ConfigurationBuilder::new().set_validator(Validator::A(Archival::A2_U)).finish();
    let settings =
        SerializeSettings { configuration: configuration.map_err(|e| failed(format!("{e:?}")))?, ..SerializeSettings::default() };
    let mut document = Document::new_with(settings);
    document.set_metadata(
        Metadata::new()
            .title(format!("{} {}", view.title, view.number))
            .authors(vec![view.seller.name.clone()])
            .creator("Farebox".to_owned())
            .producer("Farebox".to_owned())
            .language("en".to_owned())
            .document_id(id.to_owned())
            .creation_date(date(made_at)?),
    );
    for marks in layout::pages(view) {
        let size = PageSettings::from_wh(WIDTH, HEIGHT).ok_or_else(|| failed("A4 is no page"))?;
        let mut page = document.start_page_with(size);
        let mut surface = page.surface();
        if let Some(watermark) = &view.watermark {
            across(&mut surface, watermark);
        }
        for mark in &marks {
            draw(&mut surface, mark);
        }
        surface.finish();
        page.finish();
    }
    document.finish().map_err(failed)
}

fn date(at: DateTime<Utc>) -> Result<PdfDateTime, BillingError> {
    let part = |number: u32| u8::try_from(number).map_err(failed);
    let day = PdfDateTime::new(u16::try_from(at.year()).map_err(failed)?).month(part(at.month())?).day(part(at.day())?);
    let time = day.hour(part(at.hour())?).minute(part(at.minute())?).second(part(at.second())?);
    Ok(time.utc_offset_hour(0).utc_offset_minute(0))
}

fn draw(surface: &mut Surface<'_>, mark: &Mark) {
    match mark {
        Mark::Text { x, y, style, text } => {
            surface.set_stroke(None);
            surface.set_fill(Some(fill(style.grey)));
            let mut at = *x;
            for (face, run) in fonts::runs(text, style.weight) {
                surface.draw_text(Point::from_xy(at, *y), face.font.clone(), style.size, run, false, TextDirection::Auto);
                at += face.width(run, style.size);
            }
        }
        Mark::Rule { from, to, y, thickness, grey } => {
            let mut path = PathBuilder::new();
            path.move_to(*from, *y);
            path.line_to(*to, *y);
            let Some(path) = path.finish() else { return };
            surface.set_fill(None);
            surface.set_stroke(Some(Stroke { paint: luma::Color::new(*grey).into(), width: *thickness, ..Stroke::default() }));
            surface.draw_path(&path);
        }
    }
}

fn fill(grey: u8) -> Fill {
    Fill { paint: luma::Color::new(grey).into(), opacity: NormalizedF32::ONE, ..Fill::default() }
}

/// A word across the page, behind everything.
fn across(surface: &mut Surface<'_>, word: &str) {
    let size = 120.0;
    let width: f32 = fonts::width(word, fonts::Weight::Bold, size);
    surface.push_transform(&Transform::from_rotate_at(-35.0, WIDTH / 2.0, HEIGHT / 2.0));
    surface.set_stroke(None);
    surface.set_fill(Some(fill(232)));
    let mut at = (WIDTH - width) / 2.0;
    for (face, run) in fonts::runs(word, fonts::Weight::Bold) {
        surface.draw_text(Point::from_xy(at, HEIGHT / 2.0 + size / 3.0), face.font.clone(), size, run, false, TextDirection::Auto);
        at += face.width(run, size);
    }
    surface.pop();
}
