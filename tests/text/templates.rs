//! Chat templates against what Transformers renders: `golden/text/templates.json`, made by the script beside it.

use std::process::Command;

use ferrule_engine::text::ChatTemplate;
use ferrule_engine::{ChatMessage, Error};

#[derive(serde::Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    template: String,
    /// (role, content)
    messages: Vec<(String, String)>,
    /// None: the last message is continued.
    add_generation_prompt: Option<bool>,
    #[serde(flatten)]
    expected: Expected,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expected {
    Rendered(String),
    /// The template raised this.
    Refused(String),
    /// Python raised this.
    Fails(String),
}

impl Case {
    fn render(&self) -> Result<String, Error> {
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, token)| (name.into(), token.into()));
        let messages: Vec<_> = self.messages.iter().map(|(role, content)| ChatMessage::new(role, content)).collect();
        let template = ChatTemplate::new(&self.template, &tokens)?;
        match self.add_generation_prompt {
            Some(add) => template.render(&messages, add),
            None => template.render_open(&messages),
        }
    }

    /// What differs, for people.
    fn difference(&self) -> Option<String> {
        let rendered = self.render();
        let agrees = match (&rendered, &self.expected) {
            (Ok(text), Expected::Rendered(expected)) => *text == with_dates(expected),
            (Err(Error::InvalidRequest(what)), Expected::Refused(why)) => what.ends_with(why.as_str()),
            (Err(Error::Corrupt { .. }), Expected::Fails(_)) => true,
            _ => false,
        };
        let expected = match &self.expected {
            Expected::Rendered(text) | Expected::Refused(text) | Expected::Fails(text) => text,
        };
        (!agrees).then(|| format!("{}\n  rendered {rendered:?}\n  expected {expected:?}", self.name))
    }
}

/// Fills in @DATE:format@ with the help of the `date` command.
fn with_dates(expected: &str) -> String {
    let mut parts = expected.split("@DATE:");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (format, rest) = part.split_once('@').unwrap();
        let output = Command::new("date").arg(format!("+{format}")).env("LC_ALL", "C").output().unwrap();
        text += String::from_utf8(output.stdout).unwrap().trim_end_matches('\n');
        text += rest;
    }
    text
}

#[test]
fn templates_render_as_in_transformers() {
    let golden: Golden = serde_json::from_str(include_str!("../golden/text/templates.json")).unwrap();
    let differences: Vec<String> = golden.cases.iter().filter_map(Case::difference).collect();
    assert!(
        differences.is_empty(),
        "{} of {} differ:\n{}",
        differences.len(),
        golden.cases.len(),
        differences.join("\n")
    );
}

/// What bounds hostile templates must leave room for the honest ones.
#[test]
fn models_templates_render_long_conversations() {
    let golden: Golden = serde_json::from_str(include_str!("../golden/text/templates.json")).unwrap();
    let said = "Lorem ipsum dolor sit amet. ".repeat(40);
    let messages = (0..4000).map(|at| (["user", "assistant"][at % 2].to_owned(), said.clone())).collect::<Vec<_>>();
    let one_turn: Vec<_> = golden.cases.into_iter().filter(|case| case.name.ends_with("/one")).collect();
    assert!(!one_turn.is_empty());
    for case in one_turn {
        let case = Case { messages: messages.clone(), ..case };
        let rendered = case.render().unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(rendered.matches(said.trim()).count(), messages.len(), "{}", case.name);
    }
}
