//! Words, token counts and vectors. They depend on the prompt alone, so every node gives the same answer.

/// The length of every embedding vector.
pub(crate) const EMBEDDING_LENGTH: usize = 384;

const WORDS: [&str; 64] = [
    "the", "sky", "is", "blue", "because", "light", "of", "short", "waves", "scatters", "more", "than", "red", "in",
    "clear", "air", "and", "so", "we", "see", "it", "from", "every", "side", "a", "river", "finds", "its", "way",
    "through", "stone", "by", "patience", "while", "clouds", "carry", "water", "over", "hills", "where", "rain",
    "falls", "on", "green", "fields", "that", "feed", "many", "small", "towns", "with", "bread", "each", "morning",
    "people", "walk", "to", "work", "under", "old", "trees", "near", "quiet", "shores",
];

/// The word that fills answers in which only the length matters.
pub(crate) const WORD: &str = "word ";

/// A hash of parts, in order (FNV-1a, 64 bits).
pub(crate) fn hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    state
}

/// An endless sequence of numbers, determined by a seed (SplitMix64).
#[derive(Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn word(&mut self) -> &'static str {
        let index = self.below(WORDS.len() as u64) as usize;
        WORDS[index]
    }
}

/// Tokens of a text: a quarter of its characters, rounded up.
pub(crate) fn count_tokens(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(4)
}

/// The answer length that the last mark `[[n=K]]` in a text asks for.
pub(crate) fn length_mark(text: &str) -> Option<u64> {
    let (_, tail) = text.rsplit_once("[[n=")?;
    let (digits, _) = tail.split_once("]]")?;
    digits.parse().ok()
}

/// Whether a text asks, by the mark `[[repeat]]`, for an answer that repeats one word.
pub(crate) fn repeat_mark(text: &str) -> bool {
    text.contains("[[repeat]]")
}

/// The unit vector of an input.
pub(crate) fn embedding(input: &str, length: usize) -> Vec<f32> {
    let mut numbers = Numbers::seeded(hash([input]));
    let raw: Vec<f64> = (0..length).map(|_| numbers.below(2_000_001) as f64 / 1e6 - 1.0).collect();
    let norm = raw.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    raw.iter().map(|x| (x / norm) as f32).collect()
}

/// A digest of 64 hexadecimal digits.
pub(crate) fn digest(name: &str) -> String {
    let mut numbers = Numbers::seeded(hash([name, "digest"]));
    (0..4).map(|_| format!("{:016x}", numbers.next())).collect()
}

/// Cuts a text into tokens of up to four characters, for answers that are not made of words.
pub(crate) fn pieces_of(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(4).map(|chunk| chunk.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_decides_the_length_and_the_last_one_wins() {
        assert_eq!(length_mark("say [[n=3]] or rather [[n=17]] words"), Some(17));
        assert_eq!(length_mark("say nothing"), None);
        assert_eq!(length_mark("broken [[n=x]]"), None);
    }

    #[test]
    fn parts_are_hashed_apart() {
        assert_ne!(hash(["ab", "c"]), hash(["a", "bc"]));
        assert_eq!(hash(["ab", "c"]), hash(["ab", "c"]));
    }

    #[test]
    fn a_vector_has_length_one_and_depends_on_its_input() {
        let vector = embedding("hello", EMBEDDING_LENGTH);
        let norm: f32 = vector.iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-3, "{norm}");
        assert_ne!(vector, embedding("hellp", EMBEDDING_LENGTH));
    }

    #[test]
    fn tokens_are_quarters_of_characters() {
        assert_eq!(count_tokens(""), 0);
        assert_eq!(count_tokens("äöüß"), 1);
        assert_eq!(count_tokens("hello"), 2);
    }
}
