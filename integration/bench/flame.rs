//! Stacks to a flame graph.

use std::collections::BTreeMap;

/// The programs whose stacks are kept. Threads may have longer names.
const OURS: &[&str] = &["berth", "tokio"];
/// Pixels.
const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 16.0;

/// Adds the samples of `perf script -F comm,ip,sym`, outermost frame first.
pub(crate) fn fold(script: &str, folded: &mut BTreeMap<String, u64>) {
    for sample in script.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
        let Some(program) = lines.next().map(str::trim) else {
            continue;
        };
        if !OURS.iter().any(|name| program.starts_with(name)) {
            continue;
        }
        let mut stack = vec![program.to_owned()];
        let frames: Vec<&str> = lines
            .map(|line| line.trim().split_once(' ').map_or("?", |(_, name)| name))
            .collect();
        for frame in frames.iter().rev() {
            // Separators of the format.
            stack.push(frame.replace(';', ":").replace(' ', "_"));
        }
        *folded.entry(stack.join(";")).or_default() += 1;
    }
}

#[derive(Default)]
struct Frame {
    count: u64,
    below: BTreeMap<String, Frame>,
}

/// The picture: widths are parts of all samples, titles show on hovering.
pub(crate) fn draw(title: &str, folded: &BTreeMap<String, u64>) -> String {
    let mut root = Frame::default();
    for (stack, count) in folded {
        root.count += count;
        let mut at = &mut root;
        for name in stack.split(';') {
            at = at.below.entry(name.to_owned()).or_default();
            at.count += count;
        }
    }
    let mut boxes = String::new();
    let mut deepest = 0;
    layers(&root, 0.0, 0, root.count.max(1), &mut boxes, &mut deepest);
    let height = f64::from(deepest + 3) * HEIGHT;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"monospace\" font-size=\"11\">\n\
         <text x=\"4\" y=\"12\">{}: {} samples of cpu-clock</text>\n{boxes}</svg>\n",
        escape(title),
        root.count
    )
}

fn layers(frame: &Frame, left: f64, depth: u32, all: u64, boxes: &mut String, deepest: &mut u32) {
    let mut x = left;
    for (name, child) in &frame.below {
        #[allow(clippy::cast_precision_loss, reason = "for the eye")]
        let (width, part) = {
            let part = child.count as f64 / all as f64;
            (part * WIDTH, part * 100.0)
        };
        // What is thinner cannot be seen.
        if width >= 0.3 {
            *deepest = depth.max(*deepest);
            let y = f64::from(depth + 1) * HEIGHT;
            let hue = name.bytes().map(u32::from).sum::<u32>() % 50;
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a few hundred letters"
            )]
            let letters = (width / 6.7) as usize;
            let label: String = name.chars().take(letters).collect();
            boxes.push_str(&format!(
                "<g><title>{} ({part:.1} %)</title><rect x=\"{x:.1}\" y=\"{y}\" \
                 width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"hsl({hue},80%,65%)\" \
                 stroke=\"white\"/><text x=\"{:.1}\" y=\"{}\">{}</text></g>\n",
                escape(name),
                x + 2.0,
                y + 12.0,
                escape(&label),
            ));
            layers(child, x, depth + 1, all, boxes, deepest);
        }
        x += width;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "berth-agent\n\t    1234 leaf\n\t    5678 main<T>; x\n\n\
                          cat\n\t 1 other\n\n\
                          berth-agent\n\t    1234 leaf\n\t    5678 main<T>; x\n\n";

    #[test]
    fn stacks_of_our_programs_are_counted_from_the_outermost_frame() {
        let mut folded = BTreeMap::new();
        fold(SCRIPT, &mut folded);
        let expected = BTreeMap::from([("berth-agent;main<T>:_x;leaf".to_owned(), 2)]);
        assert_eq!(folded, expected);
    }

    #[test]
    fn a_picture_names_each_frame_and_escapes_it() {
        let mut folded = BTreeMap::new();
        fold(SCRIPT, &mut folded);
        let picture = draw("verbs", &folded);
        assert_eq!(picture.matches("<rect").count(), 3);
        assert!(picture.contains("main&lt;T&gt;"));
    }
}
