//! The chart of the table of troubles, as SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::measure::KEPT;

/// The victim alone, beside the hog without a limit, and beside the hog with its limit. The colors differ for color-blind
/// readers too (Okabe and Ito).
const COLORS: [RGBColor; 3] = [RGBColor(150, 150, 150), RGBColor(213, 94, 0), RGBColor(0, 114, 178)];
const NAMES: [&str; 3] = ["alone", "beside the hog without its limit", "beside the hog with its limit"];

const WIDTH: i32 = 980;
const TOP: i32 = 70;
const ROW: i32 = 34;
/// The left end of the bars, and the length of a bar of 1.
const LEFT: i32 = 150;
const UNIT: i32 = 400;
const BAR: i32 = 9;

/// A row of the chart.
#[derive(Debug)]
pub(crate) struct Bars {
    pub(crate) name: String,
    pub(crate) flag: String,
    /// The progress as parts of that alone: without and with the limit.
    pub(crate) free: f64,
    pub(crate) bound: f64,
}

/// Returns the chart as SVG.
///
/// # Errors
/// If a part of it has no place.
pub(crate) fn draw(rows: &[Bars]) -> Result<String> {
    let mut text = String::new();
    draw_to(&mut text, rows).map_err(|error| anyhow!("drawing the chart: {error}"))?;
    Ok(text)
}

fn draw_to(chart: &mut String, rows: &[Bars]) -> Result<(), Box<dyn std::error::Error>> {
    let bottom = TOP + ROW * rows.len() as i32;
    let size = (WIDTH as u32, (bottom + 34) as u32);
    let area = SVGBackend::with_string(chart, size).into_drawing_area();
    area.fill(&WHITE)?;
    let style = |size: i32, h, v| {
        TextStyle::from(("sans-serif", size).into_font()).color(&RGBColor(40, 40, 40)).pos(Pos::new(h, v))
    };
    let text =
        |text: &str, at, style: &TextStyle<'_>| area.draw(&Text::new(text.to_owned(), at, style.clone()));
    text(
        "What a victim keeps of its progress, as part of that alone",
        (14, 12),
        &style(18, HPos::Left, VPos::Top),
    )?;
    let mut x = LEFT;
    for (name, color) in NAMES.iter().zip(COLORS) {
        area.draw(&Rectangle::new([(x, 43), (x + 14, 55)], color.filled()))?;
        text(name, (x + 20, 49), &style(13, HPos::Left, VPos::Center))?;
        x += 50 + 7 * name.len() as i32;
    }
    for tenth in [0, 2, 4, 6, 8, 10] {
        let x = LEFT + UNIT * tenth / 10;
        let is_margin = f64::from(tenth) / 10.0 == KEPT;
        let color = if is_margin { RGBColor(40, 40, 40) } else { RGBColor(225, 225, 225) };
        area.draw(&PathElement::new([(x, TOP - 4), (x, bottom)], color.stroke_width(1)))?;
        text(
            &format!("{}.{}", tenth / 10, tenth % 10),
            (x, bottom + 6),
            &style(13, HPos::Center, VPos::Top),
        )?;
    }
    for (index, row) in rows.iter().enumerate() {
        let y = TOP + ROW * index as i32;
        text(&row.name, (LEFT - 8, y + ROW / 2 - 2), &style(13, HPos::Right, VPos::Center))?;
        text(&row.flag, (LEFT + UNIT + 60, y + ROW / 2 - 2), &style(13, HPos::Left, VPos::Center))?;
        for (bar, (part, color)) in [1.0, row.free, row.bound].into_iter().zip(COLORS).enumerate() {
            let (y, x) = (y + bar as i32 * BAR, LEFT + (f64::from(UNIT) * part.min(1.1)) as i32);
            // A bar of 0 is visible too.
            area.draw(&Rectangle::new([(LEFT, y), (x.max(LEFT + 2), y + BAR - 1)], color.filled()))?;
        }
    }
    area.present()?;
    Ok(())
}
