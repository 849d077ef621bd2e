//! Parameters that the engine itself answers for: stops, lengths, text, log-probabilities, figures.

use ferrule_engine::output::StopReason;
use ferrule_engine::request::Task;
use ferrule_engine::{EngineConfig, Event, FinishReason, GenerateOutput, GenerateRequest, SamplingParams};

use crate::world::*;

fn params() -> SamplingParams {
    SamplingParams { max_tokens: 60, seed: Some(3), ..SamplingParams::default() }
}

fn answer(params: SamplingParams) -> GenerateOutput {
    engine_with_text(EngineConfig::default()).generate(request(&[1, 2, 3], params)).unwrap()
}

#[test]
fn end_of_text_ends_the_answer_unless_ignored() {
    let stopped = &answer(params()).outputs[0];
    assert_eq!((stopped.finish_reason, &stopped.stop_reason), (FinishReason::Stop, &None));
    let (last, before) = stopped.token_ids.split_last().unwrap();
    assert!(*last == 0 && !before.contains(&0));
    assert_eq!(stopped.text, tokenizer().decode(before, true));
    let ignored = &answer(SamplingParams { ignore_eos: true, ..params() }).outputs[0];
    assert_eq!((ignored.finish_reason, ignored.token_ids.len()), (FinishReason::Length, 60));
    assert!(ignored.token_ids.starts_with(&stopped.token_ids));
}

#[test]
fn nothing_ends_the_answer_before_min_tokens() {
    for seed in 0..20 {
        let params = SamplingParams {
            min_tokens: 15,
            stop_token_ids: vec![2],
            stop: vec!["c".into(), "d".into()],
            seed: Some(seed),
            ..params()
        };
        let output = &answer(params).outputs[0];
        assert!(output.token_ids.len() > 15, "{output:?}");
        assert!(!output.token_ids[..15].iter().any(|&id| id == 0 || id == 2));
        assert!(output.token_ids[..15].iter().any(|&id| id == 3 || id == 4), "nothing could have stopped it");
        assert_eq!(output.finish_reason, FinishReason::Stop);
    }
}

#[test]
fn stop_tokens_and_stop_strings_end_the_text_before_them() {
    let whole = answer(SamplingParams { ignore_eos: true, ..params() });
    let (ids, text) = (&whole.outputs[0].token_ids, &whole.outputs[0].text);
    let third = ids.iter().position(|&id| id == 3).unwrap();
    let by_token = SamplingParams { ignore_eos: true, stop_token_ids: vec![3], ..params() };
    let stop = text[20..23].to_string();
    let by_text = SamplingParams { ignore_eos: true, stop: vec!["no such".into(), stop.clone()], ..params() };

    let output = &answer(by_token.clone()).outputs[0];
    assert_eq!(output.token_ids, ids[..=third]);
    assert_eq!(output.stop_reason, Some(StopReason::Token(3)));
    assert_eq!(output.text, tokenizer().decode(&ids[..third], true));
    let output = &answer(SamplingParams { include_stop_str_in_output: true, ..by_token }).outputs[0];
    assert_eq!(output.text, tokenizer().decode(&ids[..=third], true));

    let before = &text[..text.find(&stop).unwrap()];
    let output = &answer(by_text.clone()).outputs[0];
    assert_eq!((output.text.as_str(), output.finish_reason), (before, FinishReason::Stop));
    assert_eq!(output.stop_reason, Some(StopReason::Text(stop.clone())));
    let output = &answer(SamplingParams { include_stop_str_in_output: true, ..by_text }).outputs[0];
    assert_eq!(output.text, format!("{before}{stop}"));
}

#[test]
fn text_held_back_for_a_stop_string_comes_at_the_end() {
    let whole = answer(SamplingParams { ignore_eos: true, ..params() });
    let text = &whole.outputs[0].text;
    let almost = format!("{}!", &text[text.len() - 3..]);
    let output = answer(SamplingParams { ignore_eos: true, stop: vec![almost], ..params() });
    assert_eq!(output.outputs, whole.outputs);
}

#[test]
fn logprobs_have_one_entry_per_token() {
    let params = SamplingParams { logprobs: Some(2), prompt_logprobs: Some(1), ignore_eos: true, ..params() };
    let output = answer(params);
    let choice = &output.outputs[0];
    assert_eq!(choice.logprobs.iter().map(|l| l.token_id).collect::<Vec<_>>(), choice.token_ids);
    assert!(choice.logprobs.iter().all(|l| l.top.len() == 2 && l.logprob <= l.top[0].1 && l.rank < VOCAB_SIZE));
    assert_eq!(output.prompt_logprobs.iter().map(|l| l.token_id).collect::<Vec<_>>(), [2, 3]);
    assert!(output.prompt_logprobs.iter().all(|l| l.top.len() == 1));
}

/// What a token scored when it was chosen, it scores as part of a prompt.
#[test]
fn prompt_logprobs_repeat_the_logprobs_of_generation() {
    let engine = engine(EngineConfig { max_num_batched_tokens: 7, ..EngineConfig::default() });
    let written = engine.generate(request(&[5], SamplingParams { logprobs: Some(3), ..params() })).unwrap();
    let tokens = [&[5], &written.outputs[0].token_ids[..]].concat();
    for _ in 0..2 {
        let scoring = SamplingParams { prompt_logprobs: Some(3), ..SamplingParams::greedy(0) };
        let scored = engine.generate(request(&tokens, scoring)).unwrap();
        assert_eq!(scored.prompt_logprobs, written.outputs[0].logprobs);
        assert_eq!(scored.outputs[0].finish_reason, FinishReason::Length);
    }
}

#[test]
fn an_embedding_is_the_only_thing_an_embedding_request_sends() {
    let engine = engine(EngineConfig::default());
    let ask = GenerateRequest { task: Task::Embed, ..request(&[1, 2, 3], SamplingParams { n: 3, ..params() }) };
    let events: Vec<Event> = engine.stream(ask).unwrap().collect();
    assert!(matches!(&events[..], [Event::Embedding(_), Event::Done(_)]), "{events:?}");
}

#[test]
fn figures_add_up() {
    let output = answer(SamplingParams { n: 2, ..params() });
    let metrics = &output.metrics;
    assert_eq!(metrics.num_prompt_tokens, 3);
    assert_eq!(metrics.num_generated_tokens, output.outputs.iter().map(|choice| choice.token_ids.len()).sum::<usize>());
    assert_eq!(metrics.seed, 3);
    let (ttft, prefill) = (metrics.time_to_first_token.unwrap(), metrics.prefill_time.unwrap());
    assert_eq!(metrics.queue_time + prefill, ttft);
    assert!(ttft + metrics.decode_time <= metrics.e2e_time);
}
