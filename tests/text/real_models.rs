//! The default models' own vocabularies against their authors' libraries: `golden/text/real_models.json`, made by
//! the script beside it. FERRULE_TEST_MODELS names the folder that has smollm2.gguf and gemma3.gguf.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ferrule_engine::TokenId;
use ferrule_engine::text::Tokenizer;
use ferrule_engine::weights::Gguf;

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<TokenId>,
}

#[test]
fn real_vocabularies_tokenize_as_in_their_libraries() {
    let Some(folder) = std::env::var_os("FERRULE_TEST_MODELS").map(PathBuf::from) else {
        eprintln!("skipped: FERRULE_TEST_MODELS does not name a folder with smollm2.gguf and gemma3.gguf");
        return;
    };
    let golden: HashMap<String, Vec<Case>> =
        serde_json::from_str(include_str!("../golden/text/real_models.json")).unwrap();
    for (name, cases) in golden {
        let gguf = Gguf::open(&folder.join(format!("{name}.gguf"))).unwrap();
        let started = Instant::now();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        eprintln!("{name}: tokenizer ready in {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(2));
        for case in cases {
            assert_eq!(tokenizer.encode(&case.text, false, false).unwrap(), case.ids, "{name}: {:?}", case.text);
            assert_eq!(
                tokenizer.decode(&case.ids, true),
                case.text.replace('▁', if name == "gemma3" { " " } else { "▁" })
            );
        }
    }
}
