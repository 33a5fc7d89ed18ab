//! Line charts as SVG files under docs/.

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use std::fmt::Debug;
use std::path::Path;

const SIZE: (u32, u32) = (640, 360);
const COLORS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(255, 127, 14), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];

/// A line of a chart.
pub struct Line {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// A chart whose y axis starts at 0, with room for the legend above the lines.
pub struct Chart {
    /// Name under docs/, without `.svg`.
    pub file: &'static str,
    pub x: &'static str,
    pub y: &'static str,
    pub log_x: bool,
}

impl Chart {
    pub fn save(&self, lines: &[Line]) -> anyhow::Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(format!("{}.svg", self.file));
        let root = SVGBackend::new(&path, SIZE).into_drawing_area();
        let points = || lines.iter().flat_map(|line| &line.points);
        let (first, last) =
            points().fold((f64::MAX, f64::MIN), |(low, high), point| (low.min(point.0), high.max(point.0)));
        if self.log_x {
            self.draw(&root, (first..last).log_scale(), |x| format!("{x:.0e}"), lines)?;
        } else {
            // Half a rank is no tick.
            self.draw(&root, first..last, |x| if x.fract() == 0.0 { format!("{x}") } else { String::new() }, lines)?;
        }
        root.present()?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }

    fn draw<X>(
        &self,
        root: &DrawingArea<SVGBackend<'_>, Shift>,
        x: X,
        label: impl Fn(&f64) -> String,
        lines: &[Line],
    ) -> anyhow::Result<()>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
    {
        let failed = |e: &dyn Debug| anyhow!("the chart cannot be drawn: {e:?}");
        root.fill(&WHITE)?;
        let highest = lines.iter().flat_map(|line| &line.points).fold(0.0, |high: f64, point| high.max(point.1));
        let mut chart = ChartBuilder::on(root)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(x, 0.0..highest * 1.25)
            .map_err(|e| failed(&e))?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(self.x).y_desc(self.y).light_line_style(TRANSPARENT);
        mesh.x_label_formatter(&label).y_label_formatter(&|y| format!("{y}"));
        mesh.draw().map_err(|e| failed(&e))?;
        for (line, color) in lines.iter().zip(COLORS) {
            let series = LineSeries::new(line.points.iter().copied(), color.stroke_width(2)).point_size(3);
            chart
                .draw_series(series)
                .map_err(|e| failed(&e))?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        let mut legend = chart.configure_series_labels();
        legend.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3));
        legend.draw().map_err(|e| failed(&e))
    }
}
