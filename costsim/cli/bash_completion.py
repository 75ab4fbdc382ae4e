"""Completion in bash of names with spaces: `TinyTrain (exact)` is one word of what was typed."""

from click.shell_completion import BashComplete, add_completion_class


class QuotingBashComplete(BashComplete):
    """As click's, but what is offered is quoted, unless a quote was opened before it."""

    source_template = """\
%(complete_func)s() {
    local kind value word=${COMP_WORDS[COMP_CWORD]} words
    words=$(IFS=$'\\n'; echo "${COMP_WORDS[*]}")
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                [[ $word == [\\"\\']* ]] || printf -v value %%q "$value"
                COMPREPLY+=("$value")
                ;;
        esac
    done < <(COMP_WORDS=$words COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


def quote_in_bash() -> None:
    """Let click complete in bash by this."""
    add_completion_class(QuotingBashComplete)
