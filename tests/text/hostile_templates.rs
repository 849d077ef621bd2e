//! Chat templates that want too much time or memory, and conversations that may.

use std::time::{Duration, Instant};

use ferrule_engine::text::ChatTemplate;
use ferrule_engine::{ChatMessage, Error};

/// The most memory that this process ever held.
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn hostile_templates_end_soon_and_stay_small() {
    for source in [
        format!("{{{{ {}1{} }}}}", "(".repeat(60_000), ")".repeat(60_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(100_000)),
        format!("{{{{ {}true }}}}", "not ".repeat(30_000)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(30_000)),
        format!("{{{{ a{} }}}}", ".b".repeat(60_000)),
        format!("{{{{ {}{} }}}}", "[".repeat(60_000), "]".repeat(60_000)),
        "{% if true %}".repeat(10_000),
        "{{ range(1000000000) | list | length }}".into(),
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".into(),
        "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}".into(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}".into(),
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}".into(),
        "{{ ('a' * 1000000).replace('', 'b' * 1000000) | length }}".into(),
        "{{ ('a' * 1000000).join(range(1000000)) | length }}".into(),
        "{{ 'a'.center(1000000000000) }}{{ 'a' | center(1000000000000) }}".into(),
        "{{ '{:>1000000000000}'.format(1) }}".into(),
        "{{ '{:{}}'.format(1, 1000000000000) }}".into(),
        "{{ '%1000000000000d' | format(1) }}".into(),
        "{{ ' a' * 10000000 | truncate(length=-1) }}".into(),
        "{{ ('a ' * 10000000).rsplit() | length }}".into(),
        "{{ ('a\n' * 10000000).splitlines() | length }}".into(),
        "{{ 'a' | tojson(indent=1000000000000) }}{{ [[[1]]] | tojson(indent='x' * 100000) | length }}".into(),
    ] {
        let started = Instant::now();
        let start: String = source.chars().take(60).collect();
        let rendered = ChatTemplate::new(&source, &[]).and_then(|t| t.render(&[ChatMessage::new("user", "hi")], true));
        if let Err(error) = rendered {
            assert!(matches!(error, Error::Corrupt { .. }), "{start}: {error}");
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{start}: {:?}", started.elapsed());
    }
    assert!(peak_memory_kib() < 1 << 20, "{} KiB", peak_memory_kib());
}

#[test]
fn endless_templates_are_told_apart_from_wrong_ones() {
    let template = ChatTemplate::new("{{ 'a'.center(1000000000) }}", &[]).unwrap();
    let error = template.render(&[], true).unwrap_err();
    assert!(error.to_string().contains("steps"), "{error}");
}
