//! How is markdown written, and read as far as these tests need it?

/// A table with these columns.
pub fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let heads: Vec<String> = columns.iter().map(|&column| column.to_owned()).collect();
    let mut table = line(&heads);
    table += &line(&vec!["---".to_owned(); columns.len()]);
    for row in rows {
        assert_eq!(row.len(), columns.len(), "{row:?}");
        table += &line(&row.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect::<Vec<_>>());
    }
    table
}

/// As code, or nothing for nothing.
pub fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

/// With a comma between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `text` with the block between `<!-- NAME -->` and `<!-- /NAME -->` replaced.
pub fn with_block(text: &str, name: &str, block: &str) -> String {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{begin} is missing"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{end} is missing"));
    format!("{before}{begin}\n{}\n{end}{after}", block.trim())
}

/// The text without its fenced code, whose lines become empty.
pub fn without_code(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().map(|line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        if fenced || is_fence { "" } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Each link's target with the number of its line.
pub fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (index, line) in without_code(text).lines().enumerate() {
        for part in line.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                links.push((index + 1, target.to_owned()));
            }
        }
    }
    links
}

/// The anchors of a page's headings, as GitHub makes them.
pub fn anchors(text: &str) -> Vec<String> {
    let without = without_code(text);
    let headings = without.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|&letter| letter.is_alphanumeric() || " -_".contains(letter))
        .collect::<String>();
    kept.replace(' ', "-")
}

#[test]
fn a_link_in_code_is_none() {
    let text = "a [b](c.md#d) and [e](f)\n```sh\n[x](y)\n```\n[g](h)";
    assert_eq!(links(text), [(1, "c.md#d".into()), (1, "f".into()), (5, "h".into())]);
    assert_eq!(anchors("# Why, oh why?\n## `a.b` c"), ["why-oh-why", "ab-c"]);
    assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    assert_eq!(with_block("a <!-- x --> old <!-- /x --> b", "x", "new"), "a <!-- x -->\nnew\n<!-- /x --> b");
}
