//! The page of the command line, from what `--help` prints.
use clap::Command;

pub fn page() -> String {
    let mut body = String::new();
    let mut command = ollama_gateway::cli::command();
    command.build();
    describe(&mut command, &mut body);
    let introduction = "What `--help` prints, for the program and each of its commands. Exit codes are 0 for success and 1 \
        for failure; a mistake on the command line itself is 2.";
    crate::page("Command line", "src/cli", introduction, &body)
}

fn describe(command: &mut Command, body: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let help: Vec<_> = help.trim().lines().map(str::trim_end).collect();
    *body += &format!("## {name}\n\n```text\n{}\n```\n\n", help.join("\n"));
    for inner in command.get_subcommands_mut().filter(|inner| !inner.is_hide_set()) {
        describe(inner, body);
    }
}
