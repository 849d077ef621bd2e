//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write};

use super::histogram::Histogram;

/// Text under construction. The samples of one metric must come together.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// `name="value"` pairs.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    pub fn sample(&mut self, name: &str, labels: Labels, value: impl Display) {
        let labels = braces(labels);
        self.line(format_args!("{name}{labels} {value}"));
    }

    pub fn histogram(&mut self, name: &str, labels: Labels, histogram: &Histogram) {
        let counted = histogram.counted();
        for (bound, count) in &counted.buckets {
            let le = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".into() };
            let labels: Vec<_> = labels.iter().copied().chain([("le", le.as_str())]).collect();
            self.sample(&format!("{name}_bucket"), &labels, count);
        }
        self.sample(&format!("{name}_sum"), labels, counted.sum);
        self.sample(&format!("{name}_count"), labels, counted.count);
    }

    pub fn finish(self) -> String {
        self.0
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        writeln!(self.0, "{line}").expect("strings take everything");
    }
}

fn braces(labels: Labels) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_written_as_prometheus_reads_it() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        histogram.observe(0.25);
        histogram.observe(4.0);
        let mut out = Exposition::default();
        out.head("m", "histogram", "Help.");
        out.histogram("m", &[("name", "a\"b\\c\n")], &histogram);
        let expected = "# HELP m Help.\n# TYPE m histogram\n\
            m_bucket{name=\"a\\\"b\\\\c\\n\",le=\"0.5\"} 1\nm_bucket{name=\"a\\\"b\\\\c\\n\",le=\"1.0\"} 1\n\
            m_bucket{name=\"a\\\"b\\\\c\\n\",le=\"+Inf\"} 2\nm_sum{name=\"a\\\"b\\\\c\\n\"} 4.25\n\
            m_count{name=\"a\\\"b\\\\c\\n\"} 2\n";
        assert_eq!(out.finish(), expected);
    }
}
