"""``zoo completion``: scripts for the tab completion of bash, zsh and fish; they ask ``zoo completion --line`` for the words."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

from zoo.registry import list_models

SCRIPTS = {
    # bash splits words at = : and @, too; what it counts as done is cut from the answers
    "bash": """\
_zoo_complete() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}" current="${COMP_WORDS[COMP_CWORD]}" found
    [[ "$current" == "=" || "$current" == ":" || "$current" == "@" ]] && current=""
    local word="${line##* }"
    found=($("${COMP_WORDS[0]}" completion --line "$line" 2>/dev/null))
    COMPREPLY=("${found[@]#"${word%"$current"}"}")
}
complete -o nospace -o default -F _zoo_complete zoo""",
    "zsh": """\
#compdef zoo
_zoo_complete() {
    local -a found
    found=("${(@f)$(zoo completion --line "$LBUFFER" 2>/dev/null)}")
    [[ -n "$found" ]] && compadd -Q -S '' -- "${found[@]}" || _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _zoo_complete zoo""",
    "fish": """\
function __zoo_complete
    zoo completion --line (commandline -cp) 2>/dev/null
end
complete -c zoo -a '(__zoo_complete)'""",
}
CONFIGS = {"train": "train", "check": "train"}  # command -> entry config; that of the others is evaluate
GOES_ON = ("=", ".", "/", "@")  # ends of words after which no space follows


def completion_command(options: Namespace) -> int:
    """Print the script of a shell, or the completions of a line."""
    if options.line is None:
        print(SCRIPTS[options.shell])
        return 0
    for word in completions(options.line, options.commands):
        print(word if word.endswith(GOES_ON) else f"{word} ")
    return 0


def completions(line: str, commands: Mapping[str, ArgumentParser]) -> list[str]:
    """Return the words that may stand at the end of a command line.

    Args:
        line: the line up to the cursor, for example "zoo train data=di".
        commands: the parser of each command.
    """
    words = line.split()[1:]
    word = "" if line[-1:].isspace() or not words else words.pop()
    if not words:
        return sorted(name for name in commands if name.startswith(word))
    command = commands.get(words[0])
    if command is None:
        return []
    takes_overrides = command.get_default("takes_overrides")
    if word.startswith("-"):
        return sorted(flag for flag in _flags(command, hydra=takes_overrides) if flag.startswith(word))
    if takes_overrides:
        from zoo.assembly.completion import complete_override  # Hydra, which the other commands do not need

        own = set(command._option_string_actions)
        return complete_override(CONFIGS.get(words[0], "evaluate"), [each for each in words[1:] if each not in own], word)
    if words == ["info"]:
        return list_models(f"{word}*")
    return []


def _flags(command: ArgumentParser, *, hydra: bool) -> list[str]:
    """Return the long options of a command."""
    flags = [flag for flag in command._option_string_actions if flag.startswith("--") and flag != "--line"]
    if hydra:
        from zoo.assembly.hydra_flags import HELP

        flags += [names[0] for names in HELP]
    return flags
