//! Writers of small files in the foreign formats, for tests.

/// A GGUF file in the making. Values are kept in their written form.
pub struct GgufFile {
    pairs: Vec<(String, Vec<u8>)>,
    infos: Vec<u8>,
    num_tensors: u64,
    data: Vec<u8>,
    pub alignment: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl GgufFile {
    pub fn new() -> Self {
        Self { pairs: Vec::new(), infos: Vec::new(), num_tensors: 0, data: Vec::new(), alignment: 32 }
    }

    fn pair(&mut self, key: &str, kind: u32, value: &[u8]) -> &mut Self {
        self.pairs.push((key.into(), [&kind.to_le_bytes(), value].concat()));
        self
    }

    fn array(&mut self, key: &str, kind: u32, len: usize, items: Vec<u8>) -> &mut Self {
        self.pair(key, 9, &[&kind.to_le_bytes()[..], &(len as u64).to_le_bytes(), &items].concat())
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.pair(key, 4, &value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.pair(key, 6, &value.to_le_bytes())
    }

    pub fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.pair(key, 7, &[value.into()])
    }

    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.pair(key, 8, &text(value))
    }

    pub fn texts(&mut self, key: &str, values: &[&str]) -> &mut Self {
        self.array(key, 8, values.len(), values.iter().flat_map(|value| text(value)).collect())
    }

    pub fn ints(&mut self, key: &str, values: &[i32]) -> &mut Self {
        self.array(key, 5, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub fn flags(&mut self, key: &str, values: &[bool]) -> &mut Self {
        self.array(key, 7, values.len(), values.iter().map(|&value| value.into()).collect())
    }

    fn remove(&mut self, key: &str) {
        self.pairs.retain(|(other, _)| other != key);
    }

    pub fn set_u32(&mut self, key: &str, value: u32) {
        self.remove(key);
        self.u32(key, value);
    }

    pub fn set_text(&mut self, key: &str, value: &str) {
        self.remove(key);
        self.text(key, value);
    }

    /// Adds a float32 tensor of `shape`, outermost first.
    pub fn tensor(&mut self, name: &str, shape: &[u64], numbers: &[f32]) -> &mut Self {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.raw_tensor(name, shape, 0, &bytes)
    }

    pub fn raw_tensor(&mut self, name: &str, shape: &[u64], kind: u32, bytes: &[u8]) -> &mut Self {
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        self.infos.extend(text(name));
        self.infos.extend((shape.len() as u32).to_le_bytes());
        self.infos.extend(shape.iter().rev().flat_map(|side| side.to_le_bytes()));
        self.infos.extend(kind.to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        self.num_tensors += 1;
        self.data.extend(bytes);
        self
    }

    fn header(&self, version: u32) -> Vec<u8> {
        let mut out = [&b"GGUF"[..], &version.to_le_bytes(), &self.num_tensors.to_le_bytes()].concat();
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend(text(key));
            out.extend(value);
        }
        out.extend(&self.infos);
        out
    }

    pub fn header_len(&self) -> usize {
        self.header(3).len()
    }

    pub fn bytes(&self, version: u32) -> Vec<u8> {
        let mut out = self.header(version);
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }
}

/// A Llama with one layer: hidden size 8, two query heads and one key and value head of 4.
pub fn tiny_llama() -> GgufFile {
    let mut file = GgufFile::new();
    file.text("general.architecture", "llama").text("general.name", "tiny").u32("llama.block_count", 1);
    file.u32("llama.context_length", 64).u32("llama.embedding_length", 8).u32("llama.feed_forward_length", 16);
    file.u32("llama.attention.head_count", 2).u32("llama.attention.head_count_kv", 1);
    file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5).f32("llama.rope.freq_base", 10_000.0);
    file.texts("tokenizer.ggml.tokens", &["a", "b", "c"]).ints("tokenizer.ggml.token_type", &[1, 1, 3]);
    let shapes: [(&str, &[u64]); 11] = [
        ("token_embd.weight", &[3, 8]),
        ("output_norm.weight", &[8]),
        ("blk.0.attn_norm.weight", &[8]),
        ("blk.0.attn_q.weight", &[8, 8]),
        ("blk.0.attn_k.weight", &[4, 8]),
        ("blk.0.attn_v.weight", &[4, 8]),
        ("blk.0.attn_output.weight", &[8, 8]),
        ("blk.0.ffn_norm.weight", &[8]),
        ("blk.0.ffn_gate.weight", &[16, 8]),
        ("blk.0.ffn_up.weight", &[16, 8]),
        ("blk.0.ffn_down.weight", &[8, 16]),
    ];
    for (name, shape) in shapes {
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|i| i as f32).collect();
        file.tensor(name, shape, &numbers);
    }
    file
}

/// A safetensors file with this header and `data_len` bytes of zeros.
pub fn safetensors_file(header: &str, data_len: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data_len]].concat()
}
