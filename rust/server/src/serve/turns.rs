//! What Anthropic's and Amazon's APIs have in common: conversations of turns, and the names of why an answer ended.

use ferrule_engine::output::{Choice, Delta, StopReason};
use ferrule_engine::{ChatMessage, FinishReason, Prompt};
use serde::Deserialize;

use super::error::{Result, ServeError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// What stands between turns of the same role.
const SEPARATOR: &str = "\n";

/// The prompt that a conversation is. A last turn of the assistant is the beginning of its answer.
pub fn prompt(system: String, mut turns: Vec<(Role, String)>) -> Result<Prompt> {
    // What was begun with nothing is not begun yet.
    turns.pop_if(|(role, text)| *role == Role::Assistant && text.is_empty());
    let refuse = |why: &str| Err(ServeError::invalid("messages", why));
    match turns.last() {
        None => refuse("messages is empty; it needs at least one message"),
        Some((Role::User, _)) => Ok(Prompt::Chat(messages(system, turns))),
        Some((Role::System, _)) => {
            refuse("messages ends with a turn of the system: it must be the user's or the assistant's")
        }
        Some((Role::Assistant, text)) if text.ends_with(char::is_whitespace) => {
            refuse("messages ends with a turn of the assistant, whose text must not end with white space")
        }
        Some((Role::Assistant, _)) => Ok(Prompt::OpenChat(messages(system, turns))),
    }
}

/// The conversation as chat templates know it. Neighbours of the same role are one turn, as Anthropic has it: many
/// templates insist that roles alternate.
fn messages(system: String, turns: Vec<(Role, String)>) -> Vec<ChatMessage> {
    let system = (!system.is_empty()).then_some((Role::System, system));
    let mut messages: Vec<ChatMessage> = Vec::new();
    for (role, text) in system.into_iter().chain(turns) {
        match messages.last_mut().filter(|last| last.role == role.as_str()) {
            Some(last) => last.content += &format!("{SEPARATOR}{text}"),
            None => messages.push(ChatMessage::new(role.as_str(), text)),
        }
    }
    messages
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    reason: FinishReason,
    stop: Option<StopReason>,
}

impl Ending {
    /// None: the answer goes on.
    pub fn of_delta(delta: &Delta) -> Option<Self> {
        delta.finish_reason.map(|reason| Self { reason, stop: delta.stop_reason.clone() })
    }

    pub fn of_choice(choice: &Choice) -> Self {
        Self { reason: choice.finish_reason, stop: choice.stop_reason.clone() }
    }

    /// Both APIs' name for it. `max_tokens`: what the request allowed.
    pub fn name(&self, num_generated: usize, max_tokens: usize) -> &'static str {
        match self.reason {
            FinishReason::Stop if self.stop_sequence().is_some() => "stop_sequence",
            FinishReason::Stop => "end_turn",
            FinishReason::Length if num_generated < max_tokens => "model_context_window_exceeded",
            FinishReason::Length => "max_tokens",
        }
    }

    pub fn stop_sequence(&self) -> Option<&str> {
        match &self.stop {
            Some(StopReason::Text(text)) => Some(text),
            Some(StopReason::Token(_)) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> (Role, String) {
        (Role::User, text.into())
    }

    fn assistant(text: &str) -> (Role, String) {
        (Role::Assistant, text.into())
    }

    #[test]
    fn neighbours_of_the_same_role_are_one_turn() {
        let found = messages("s".into(), vec![user("a"), user("b"), assistant("c"), user("d")]);
        let expected = [("system", "s"), ("user", "a\nb"), ("assistant", "c"), ("user", "d")];
        assert_eq!(found, expected.map(|(role, text)| ChatMessage::new(role, text)));
        assert_eq!(messages(String::new(), vec![user("a")]), [ChatMessage::new("user", "a")]);
    }

    #[test]
    fn an_answer_that_was_begun_is_continued() {
        let prompt = |turns| prompt(String::new(), turns);
        let asked = [ChatMessage::new("user", "a")];
        let begun = [ChatMessage::new("user", "a"), ChatMessage::new("assistant", "b")];
        assert_eq!(prompt(vec![user("a"), assistant("b")]), Ok(Prompt::OpenChat(begun.to_vec())));
        assert_eq!(prompt(vec![user("a"), assistant("")]), Ok(Prompt::Chat(asked.to_vec())));
        let system = (Role::System, "s".into());
        for turns in [vec![], vec![assistant("")], vec![user("a"), assistant("b ")], vec![user("a"), system]] {
            assert_eq!(prompt(turns).unwrap_err().param.as_deref(), Some("messages"));
        }
    }

    #[test]
    fn an_answer_that_was_cut_short_says_by_what() {
        let cut = Ending { reason: FinishReason::Length, stop: None };
        assert_eq!(cut.name(5, 5), "max_tokens");
        assert_eq!(cut.name(5, 6), "model_context_window_exceeded");
        let stop = |stop| Ending { reason: FinishReason::Stop, stop };
        assert_eq!(stop(Some(StopReason::Text("x".into()))).name(1, 9), "stop_sequence");
        assert_eq!(stop(Some(StopReason::Token(3))).name(1, 9), "end_turn");
        assert_eq!(stop(None).name(9, 9), "end_turn");
    }
}
