//! Draws the plots as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::measure::Samples;

const SIZE: (u32, u32) = (760, 400);
/// The first color is for nspod. The colors differ for red-green color-blind readers too.
const COLORS: [RGBColor; 4] =
    [RGBColor(0, 90, 160), RGBColor(214, 120, 0), RGBColor(110, 110, 110), RGBColor(150, 60, 140)];

/// One side of a plot, in ms.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A plot, which is drawn after all measurements.
#[derive(Debug)]
pub(crate) struct Plot {
    name: &'static str,
    title: String,
    axis: String,
    log: bool,
    /// Labels of x = 0, 1, and so on.
    labels: Vec<String>,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    Curves(Vec<Curve>),
    /// Name, least and median in ms.
    Bars(Vec<(String, f64, f64)>),
}

impl Plot {
    pub(crate) fn curves(name: &'static str, title: &str, axis: &str, curves: Vec<Curve>) -> Plot {
        let shape = Shape::Curves(curves);
        Plot { name, title: title.to_owned(), axis: axis.to_owned(), log: false, labels: Vec::new(), shape }
    }

    /// A bar for each side, as long as its median.
    pub(crate) fn bars(name: &'static str, title: &str, samples: &[Samples]) -> Plot {
        let bars = samples.iter().map(|s| (s.name.clone(), s.min() / 1000.0, s.median() / 1000.0));
        let shape = Shape::Bars(bars.collect());
        let axis = "ms, median; the dot is the least".to_owned();
        Plot { name, title: title.to_owned(), axis, log: false, labels: Vec::new(), shape }
    }

    /// Makes the x axis logarithmic, and also the y axis if the values differ much.
    pub(crate) fn log(mut self) -> Plot {
        self.log = true;
        self
    }

    /// Sets labels for the positions on the x axis.
    pub(crate) fn labels(mut self, labels: Vec<String>) -> Plot {
        self.labels = labels;
        self
    }

    pub(crate) fn name(&self) -> &str {
        self.name
    }

    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// Writes `NAME.svg` to the directory.
    pub(crate) fn draw(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("{}.svg", self.name));
        let result = match &self.shape {
            Shape::Curves(curves) => self.draw_curves(&path, curves),
            Shape::Bars(bars) => self.draw_bars(&path, bars),
        };
        result.map_err(|error| anyhow!("{error}"))
    }

    fn draw_curves(&self, path: &Path, curves: &[Curve]) -> Result<(), Box<dyn std::error::Error>> {
        let all = || curves.iter().flat_map(|curve| &curve.points);
        let (left, right) =
            all().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
        let (least, most) = all().fold((f64::MAX, 0f64), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut builder = ChartBuilder::on(&area);
        builder
            .caption(&self.title, ("sans-serif", 18))
            .margin(14)
            .margin_right(34)
            .x_label_area_size(46)
            .y_label_area_size(64);
        // Each kind of axis has a different type.
        macro_rules! fill {
            ($chart:expr, $x_format:expr) => {{
                let mut chart = $chart;
                chart
                    .configure_mesh()
                    .light_line_style(TRANSPARENT)
                    .bold_line_style(RGBColor(225, 225, 225))
                    .x_labels(if self.labels.is_empty() { 10 } else { self.labels.len() })
                    .x_desc(&self.axis)
                    .y_desc("ms, median")
                    .x_label_formatter($x_format)
                    .y_label_formatter(&|y| number(*y))
                    .label_style(("sans-serif", 13))
                    .draw()?;
                for (curve, color) in curves.iter().zip(COLORS) {
                    chart
                        .draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?
                        .label(&curve.name)
                        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
                    chart.draw_series(
                        curve.points.iter().map(|point| Circle::new(*point, 3, color.filled())),
                    )?;
                }
                chart
                    .configure_series_labels()
                    .position(SeriesLabelPosition::UpperLeft)
                    .background_style(WHITE.mix(0.85))
                    .border_style(RGBColor(200, 200, 200))
                    .label_font(("sans-serif", 13))
                    .draw()?;
            }};
        }
        if self.log {
            let x = (left.max(1.0)..right).log_scale();
            let plain = &|x: &f64| number(*x);
            // If the values grow less than tenfold, a linear axis shows more.
            if most > 10.0 * least {
                fill!(builder.build_cartesian_2d(x, (least * 0.7..most * 1.6).log_scale())?, plain);
            } else {
                fill!(builder.build_cartesian_2d(x, 0.0..most * 1.3)?, plain);
            }
        } else {
            let label = |x: &f64| match self.labels.get(x.round() as usize) {
                Some(label) if (x - x.round()).abs() < 0.01 => label.clone(),
                Some(_) => String::new(),
                None => number(*x),
            };
            fill!(builder.build_cartesian_2d(left..right, 0.0..most * 1.3)?, &label);
        }
        area.present()?;
        Ok(())
    }

    fn draw_bars(&self, path: &Path, bars: &[(String, f64, f64)]) -> Result<(), Box<dyn std::error::Error>> {
        let most = bars.iter().map(|(_, _, median)| *median).fold(0.0, f64::max);
        let size = (SIZE.0, 110 + 44 * bars.len() as u32);
        let area = SVGBackend::new(path, size).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(14)
            .x_label_area_size(46)
            .y_label_area_size(90)
            .build_cartesian_2d(0.0..most * 1.12, 0.0..bars.len() as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .x_desc(&self.axis)
            .x_label_formatter(&|x| number(*x))
            .label_style(("sans-serif", 13))
            .draw()?;
        for (at, (name, min, median)) in bars.iter().enumerate() {
            let y = (bars.len() - at) as f64 - 0.5;
            let color = if at == 0 { COLORS[0] } else { RGBColor(165, 165, 165) };
            let font = ("sans-serif", 13).into_font();
            chart.draw_series([Rectangle::new([(0.0, y - 0.3), (*median, y + 0.3)], color.filled())])?;
            chart.draw_series([Circle::new((*min, y), 3, BLACK.filled())])?;
            chart.draw_series([Text::new(
                format!("{median:.2}"),
                (median + most * 0.008, y + 0.14),
                font.clone(),
            )])?;
            let place = chart.backend_coord(&(0.0, y));
            let style = TextStyle::from(font).pos(plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Right,
                plotters::style::text_anchor::VPos::Center,
            ));
            area.draw_text(name, &style, (place.0 - 8, place.1))?;
        }
        area.present()?;
        Ok(())
    }
}

/// Formats a number with few digits.
fn number(value: f64) -> String {
    match value {
        v if v >= 10.0 || v == 0.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{v:.1}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        v => format!("{v:.2}").trim_end_matches('0').to_owned(),
    }
}
