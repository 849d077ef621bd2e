//! The chat of `ferrule run`: a conversation with history, editing and commands.

use ferrule_engine::{ChatMessage, GenerateRequest, Prompt, SamplingParams};
use ferrule_store::Store;
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

use crate::answer::{Respond, to_stdout};
use crate::failure::{Failure, Result};
use crate::print;

const PROMPT: &str = ">>> ";
const CONTINUED: &str = "... ";
const QUOTES: &str = "\"\"\"";

const HELP: &str = "\
/help                 this text
/clear                forget the conversation
/system TEXT          set the system message (no TEXT: remove it) and start over
/set NAME VALUE       temperature, top_p, top_k, min_p, repetition_penalty, max_tokens or seed
/stats                show or hide the figures after each answer
/quit                 leave (or Ctrl-D)
\"\"\"                   begins and ends a message of several lines
Ctrl-C                stops the answer; the conversation goes on";

pub struct Chat<'a> {
    model: &'a dyn Respond,
    params: SamplingParams,
    system: Option<String>,
    messages: Vec<ChatMessage>,
    /// Without a template each message is continued on its own.
    raw: bool,
    shows_figures: bool,
}

/// What a line asks for.
enum Step {
    GoOn,
    Leave,
}

impl<'a> Chat<'a> {
    pub fn new(model: &'a dyn Respond, params: SamplingParams, system: Option<String>, raw: bool) -> Self {
        Self { model, params, system, messages: Vec::new(), raw, shows_figures: true }
    }

    pub fn run(mut self) -> Result {
        let mut lines = Lines::open()?;
        print::note("/help lists the commands, Ctrl-D leaves.");
        while let Some(text) = lines.next()? {
            let step = match text.trim().strip_prefix('/') {
                _ if text.trim().is_empty() => Step::GoOn,
                Some(command) => self.command(command)?,
                None => self.turn(text)?,
            };
            if let Step::Leave = step {
                break;
            }
        }
        Ok(())
    }

    /// One message and its answer. What is wrong with a message ends the turn, not the chat.
    fn turn(&mut self, text: String) -> Result<Step> {
        let request = GenerateRequest::new(self.prompt(&text), self.params.clone());
        let answer = match self.model.respond(request, &mut to_stdout) {
            Ok(answer) => answer,
            Err(failure) => {
                failure.report();
                print::note("The message was not added to the conversation; /clear starts over.");
                return Ok(Step::GoOn);
            }
        };
        to_stdout(if answer.text.ends_with('\n') { "\n" } else { "\n\n" })?;
        if self.shows_figures {
            print::note(&answer.figures());
        }
        // An answer that was stopped before its first word is not one to go on from.
        if !self.raw && !answer.text.is_empty() {
            self.messages.push(ChatMessage::new("user", text));
            self.messages.push(ChatMessage::new("assistant", answer.text));
        }
        Ok(Step::GoOn)
    }

    fn prompt(&self, text: &str) -> Prompt {
        if self.raw {
            return Prompt::Text(text.into());
        }
        let system = self.system.iter().map(|text| ChatMessage::new("system", text));
        let user = ChatMessage::new("user", text);
        Prompt::Chat(system.chain(self.messages.iter().cloned()).chain([user]).collect())
    }

    fn command(&mut self, command: &str) -> Result<Step> {
        let (verb, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match verb {
            "help" | "?" => print::note(HELP),
            "quit" | "exit" | "bye" => return Ok(Step::Leave),
            "clear" => self.messages.clear(),
            "system" => self.set_system(rest),
            "set" => match set(&mut self.params, rest) {
                Ok(()) => print::note(rest),
                Err(why) => print::note(&why),
            },
            "stats" => self.shows_figures = !self.shows_figures,
            _ => print::note(&format!("/{verb} is no command; /help lists them")),
        }
        Ok(Step::GoOn)
    }

    fn set_system(&mut self, text: &str) {
        if self.raw {
            return print::note("Without a chat template there is no place for a system message.");
        }
        self.system = (!text.is_empty()).then(|| text.to_owned());
        self.messages.clear();
    }
}

/// `NAME VALUE` to one field; the rest stays, and so does everything if the value is out of range.
fn set(params: &mut SamplingParams, assignment: &str) -> Result<(), String> {
    let (name, value) =
        assignment.split_once([' ', '=']).ok_or("write /set NAME VALUE, such as /set temperature 0.2")?;
    let value = value.trim();
    let mut changed = params.clone();
    match name {
        "temperature" => changed.temperature = parse(value)?,
        "top_p" => changed.top_p = parse(value)?,
        "top_k" => changed.top_k = parse(value)?,
        "min_p" => changed.min_p = parse(value)?,
        "repetition_penalty" => changed.repetition_penalty = parse(value)?,
        "max_tokens" => changed.max_tokens = parse(value)?,
        "seed" => changed.seed = Some(parse(value)?),
        _ => return Err(format!("'{name}' cannot be set; /help lists what can")),
    }
    changed.validate(usize::MAX).map_err(|err| err.to_string())?;
    *params = changed;
    Ok(())
}

fn parse<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("'{value}' is not a number that fits here"))
}

/// What the terminal gives.
enum Line {
    Text(String),
    Interrupted,
    End,
}

/// Lines from the terminal, with editing and a history that outlives the chat.
struct Lines {
    editor: DefaultEditor,
    /// None: the store cannot be written, and the history is forgotten.
    history: Option<std::path::PathBuf>,
}

impl Lines {
    fn open() -> Result<Self> {
        let config = Config::builder().auto_add_history(false).build();
        let mut editor = DefaultEditor::with_config(config).map_err(Failure::machine)?;
        let home = Store::open_default()?.home().to_owned();
        let history = std::fs::create_dir_all(&home).is_ok().then(|| home.join("history.txt"));
        if let Some(history) = &history {
            // The first chat has none.
            let _ = editor.load_history(history);
        }
        Ok(Self { editor, history })
    }

    /// The next message. None: the person leaves.
    fn next(&mut self) -> Result<Option<String>> {
        loop {
            match self.message()? {
                Line::Text(text) => {
                    self.remember(&text);
                    return Ok(Some(text));
                }
                Line::Interrupted => print::note("Ctrl-D or /quit leaves."),
                Line::End => return Ok(None),
            }
        }
    }

    /// One line, or several between quotes. Ctrl-C drops what was typed.
    fn message(&mut self) -> Result<Line> {
        let first = match self.line(PROMPT)? {
            Line::Text(line) => line,
            other => return Ok(other),
        };
        let Some(rest) = first.trim_start().strip_prefix(QUOTES) else { return Ok(Line::Text(first)) };
        let mut text = rest.to_owned();
        while !text.trim_end().ends_with(QUOTES) {
            match self.line(CONTINUED)? {
                Line::Text(line) => text.extend(["\n", &line]),
                other => return Ok(other),
            }
        }
        Ok(Line::Text(text.trim_end().trim_end_matches(QUOTES).trim_matches('\n').to_owned()))
    }

    fn line(&mut self, prompt: &str) -> Result<Line> {
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Line::Text(line)),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(err) => Err(Failure::machine(format!("the terminal: {err}"))),
        }
    }

    fn remember(&mut self, text: &str) {
        // A history that cannot be written is no reason to end a chat.
        let _ = self.editor.add_history_entry(text);
        if let Some(history) = &self.history {
            let _ = self.editor.append_history(history);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_before_they_hold() {
        let mut params = SamplingParams::default();
        set(&mut params, "temperature 0.25").unwrap();
        set(&mut params, "seed=7").unwrap();
        assert_eq!((params.temperature, params.seed), (0.25, Some(7)));
        for wrong in ["temperature", "temperature hot", "temperature -1", "top_p 2", "top_k -1", "nonsense 1", ""] {
            assert!(set(&mut params, wrong).is_err(), "{wrong}");
        }
        assert_eq!((params.temperature, params.seed), (0.25, Some(7)));
    }
}
