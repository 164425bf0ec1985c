//! Texts and rules on A4 pages, in points from the upper left. Positions are the only floating-point numbers here; every
//! amount comes as text.

use super::fonts::{Weight, printable, width};
use crate::documents::view::{View, ViewLine, ViewParty};

pub const WIDTH: f32 = 595.28;
pub const HEIGHT: f32 = 841.89;
const LEFT: f32 = 62.0;
const RIGHT: f32 = WIDTH - LEFT;
const TOP: f32 = 62.0;
const BOTTOM: f32 = HEIGHT - 76.0;
/// Right edges of the table's columns of numbers, and the width left to the description.
const QUANTITY: f32 = RIGHT - 132.0;
const TAX: f32 = RIGHT - 84.0;
const DESCRIPTION: f32 = QUANTITY - 66.0 - LEFT;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Style {
    pub size: f32,
    pub weight: Weight,
    /// 0 is black.
    pub grey: u8,
}

const PLAIN: Style = Style { size: 9.5, weight: Weight::Regular, grey: 20 };
const BOLD: Style = Style { weight: Weight::Bold, ..PLAIN };
const SMALL: Style = Style { size: 8.0, weight: Weight::Regular, grey: 95 };
const TITLE: Style = Style { size: 20.0, weight: Weight::Bold, grey: 20 };
const SUM: Style = Style { size: 11.0, weight: Weight::Bold, grey: 20 };

impl Style {
    fn leading(self) -> f32 {
        self.size * 1.38
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Mark {
    /// `y` is the base line.
    Text {
        x: f32,
        y: f32,
        style: Style,
        text: String,
    },
    Rule {
        from: f32,
        to: f32,
        y: f32,
        thickness: f32,
        grey: u8,
    },
}

/// The pages of a document, each with its foot.
pub fn pages(view: &View) -> Vec<Vec<Mark>> {
    let mut sheet = Sheet { pages: vec![Vec::new()], y: TOP };
    head(&mut sheet, view);
    table_head(&mut sheet, view.currency);
    for line in &view.lines {
        table_row(&mut sheet, line, view.currency);
    }
    totals(&mut sheet, view);
    for note in &view.notes {
        for line in wrapped(note, PLAIN, RIGHT - LEFT) {
            sheet.room(PLAIN.leading());
            sheet.left(LEFT, PLAIN, &line);
            sheet.y += PLAIN.leading();
        }
        sheet.y += 3.0;
    }
    feet(&mut sheet.pages, view);
    sheet.pages
}

struct Sheet {
    pages: Vec<Vec<Mark>>,
    y: f32,
}

impl Sheet {
    fn put(&mut self, mark: Mark) {
        self.pages.last_mut().expect("there is always a page").push(mark);
    }

    fn left(&mut self, x: f32, style: Style, text: &str) {
        let text = printable(text);
        self.put(Mark::Text { x, y: self.y + style.size, style, text });
    }

    fn right(&mut self, x: f32, style: Style, text: &str) {
        let text = printable(text);
        let x = x - width(&text, style.weight, style.size);
        self.put(Mark::Text { x, y: self.y + style.size, style, text });
    }

    fn rule(&mut self, from: f32, thickness: f32, grey: u8) {
        self.put(Mark::Rule { from, to: RIGHT, y: self.y, thickness, grey });
    }

    /// Turns the page when less than this is left; true when it did.
    fn room(&mut self, height: f32) -> bool {
        if self.y + height <= BOTTOM {
            return false;
        }
        self.pages.push(Vec::new());
        self.y = TOP;
        true
    }
}

/// The seller and the title, the buyer and the facts.
fn head(sheet: &mut Sheet, view: &View) {
    let top = sheet.y;
    party(sheet, &view.seller);
    let below = sheet.y;
    sheet.y = top;
    sheet.right(RIGHT, TITLE, &view.title);
    sheet.y += TITLE.leading();
    sheet.right(RIGHT, PLAIN, &view.number);
    sheet.y = below.max(sheet.y + PLAIN.leading()) + 26.0;

    let top = sheet.y;
    sheet.left(LEFT, SMALL, "Bill to");
    sheet.y += SMALL.leading();
    party(sheet, &view.buyer);
    let below = sheet.y;
    sheet.y = top;
    for (name, value) in &view.facts {
        sheet.left(WIDTH / 2.0 + 40.0, SMALL, name);
        sheet.right(RIGHT, PLAIN, value);
        sheet.y += PLAIN.leading() + 2.0;
    }
    sheet.y = below.max(sheet.y) + 24.0;
}

fn party(sheet: &mut Sheet, party: &ViewParty) {
    let width = WIDTH / 2.0 - LEFT;
    for (style, text) in std::iter::once((BOLD, &party.name)).chain(party.lines.iter().map(|line| (PLAIN, line))) {
        for line in wrapped(text, style, width) {
            sheet.left(LEFT, style, &line);
            sheet.y += style.leading();
        }
    }
}

fn table_head(sheet: &mut Sheet, currency: &str) {
    sheet.left(LEFT, SMALL, "Description");
    sheet.right(QUANTITY, SMALL, "Quantity");
    sheet.right(TAX, SMALL, "Tax");
    sheet.right(RIGHT, SMALL, &format!("Amount ({currency})"));
    sheet.y += SMALL.leading() + 3.0;
    sheet.rule(LEFT, 0.8, 60);
    sheet.y += 5.0;
}

/// A row may go on overleaf, under the head repeated; its first two lines stay together.
fn table_row(sheet: &mut Sheet, line: &ViewLine, currency: &str) {
    let mut texts: Vec<(Style, String)> = wrapped(&line.name, BOLD, DESCRIPTION).into_iter().map(|text| (BOLD, text)).collect();
    for small in [&line.period, &line.explanation] {
        texts.extend(wrapped(small, SMALL, DESCRIPTION).into_iter().map(|text| (SMALL, text)));
    }
    let turn = |sheet: &mut Sheet, height| {
        if sheet.room(height) {
            table_head(sheet, currency);
        }
    };
    turn(sheet, texts.iter().take(2).map(|(style, _)| style.leading()).sum());
    sheet.right(QUANTITY, PLAIN, &line.quantity);
    sheet.right(TAX, PLAIN, &line.tax);
    sheet.right(RIGHT, PLAIN, &line.amount);
    for (style, text) in texts {
        turn(sheet, style.leading());
        sheet.left(LEFT, style, &text);
        sheet.y += style.leading();
    }
    sheet.y += 4.0;
    sheet.rule(LEFT, 0.5, 205);
    sheet.y += 5.0;
}

fn totals(sheet: &mut Sheet, view: &View) {
    let from = WIDTH / 2.0 - 10.0;
    // Kept together: a sum alone on a page says little.
    #[allow(clippy::cast_precision_loss)] // a handful of rows
    sheet.room(view.totals.len() as f32 * (PLAIN.leading() + 4.0) + SUM.leading() + 24.0);
    sheet.y += 4.0;
    for (name, value) in &view.totals {
        for (index, text) in wrapped(name, PLAIN, RIGHT - from - 80.0).iter().enumerate() {
            sheet.left(from, PLAIN, text);
            if index == 0 {
                sheet.right(RIGHT, PLAIN, value);
            }
            sheet.y += PLAIN.leading();
        }
        sheet.y += 3.0;
    }
    sheet.rule(from, 0.8, 60);
    sheet.y += 5.0;
    sheet.left(from, SUM, &view.sum.0);
    sheet.right(RIGHT, SUM, &view.sum.1);
    sheet.y += SUM.leading() + 18.0;
}

fn feet(pages: &mut [Vec<Mark>], view: &View) {
    let count = pages.len();
    for (index, page) in pages.iter_mut().enumerate() {
        let y = HEIGHT - 44.0;
        page.push(Mark::Rule { from: LEFT, to: RIGHT, y: y - 14.0, thickness: 0.5, grey: 205 });
        let whose = wrapped(&format!("{} · {} {}", view.seller.name, view.title, view.number), SMALL, RIGHT - LEFT - 70.0);
        page.push(Mark::Text { x: LEFT, y, style: SMALL, text: printable(&whose[0]) });
        let text = format!("Page {} of {count}", index + 1);
        let x = RIGHT - width(&text, SMALL.weight, SMALL.size);
        page.push(Mark::Text { x, y, style: SMALL, text });
    }
}

/// Cut at spaces; a word that is too long by itself is cut where it must be. An empty text has no line.
fn wrapped(text: &str, style: Style, limit: f32) -> Vec<String> {
    let text = printable(text);
    let fits = |line: &str| width(line, style.weight, style.size) <= limit;
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
        if fits(&longer) {
            line = longer;
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for c in word.chars() {
            line.push(c);
            if !fits(&line) && line.chars().count() > 1 {
                line.pop();
                lines.push(std::mem::replace(&mut line, c.to_string()));
            }
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(lines: usize) -> View {
        let party = |name: &str| ViewParty { name: name.to_owned(), lines: vec!["Street 1".to_owned()] };
        let line = |n: usize| ViewLine {
            name: format!("Line {n}"),
            period: "1 October 2026 – 31 October 2026".to_owned(),
            explanation: "1,000 × 0.0004 = 0.40, and so on for rather longer than one line of the description can hold".to_owned(),
            quantity: "1,000".to_owned(),
            tax: "19 %".to_owned(),
            amount: "0.40".to_owned(),
        };
        View {
            title: "Invoice".to_owned(),
            number: "ACME-000001".to_owned(),
            watermark: None,
            seller: party("Acme Ltd"),
            buyer: party("Initech"),
            currency: "EUR",
            facts: vec![("Number".to_owned(), "ACME-000001".to_owned())],
            lines: (0..lines).map(line).collect(),
            totals: vec![("Subtotal".to_owned(), "0.40".to_owned())],
            sum: ("Total".to_owned(), "EUR 0.48".to_owned()),
            notes: vec!["Please pay.".to_owned()],
        }
    }

    #[test]
    fn nothing_leaves_the_page_and_every_line_is_there() {
        for lines in [0, 1, 9, 40, 250] {
            let pages = pages(&view(lines));
            let texts: Vec<_> = pages
                .iter()
                .flatten()
                .filter_map(|mark| if let Mark::Text { text, .. } = mark { Some(text.as_str()) } else { None })
                .collect();
            for n in 0..lines {
                assert!(texts.contains(&format!("Line {n}").as_str()), "line {n} of {lines}");
            }
            assert!(texts.contains(&format!("Page {0} of {0}", pages.len()).as_str()));
            assert!(texts.contains(&"Description"));
            for mark in pages.iter().flatten() {
                if let Mark::Text { x, y, style, text } = mark {
                    assert!(*x >= LEFT - 0.1 && x + width(text, style.weight, style.size) <= RIGHT + 0.1, "{text} leaves the page");
                    assert!(*y >= TOP && *y <= HEIGHT - 40.0, "{text} leaves the page");
                }
            }
        }
    }

    #[test]
    fn words_are_cut_only_when_they_must_be() {
        assert_eq!(wrapped("", PLAIN, 100.0), Vec::<String>::new());
        assert_eq!(wrapped("a b", PLAIN, 100.0), ["a b"]);
        let cut = wrapped(&"x".repeat(100), PLAIN, 50.0);
        assert!(cut.len() > 1 && cut.concat() == "x".repeat(100));
    }
}
