"""The options of the commands: their sections in `--help`, their types, old names, and options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from unfreeze.cli import terminal

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]

PATH = click.Path()  # the library reports a path that does not exist, since it knows what was expected there


class Section(Enum):
    """The heading under which `--help` lists an option, in the order of the help."""

    INPUT = "Input"
    OUTPUT = "Output"
    MODEL = "Model"
    PRECISION = "Precision"
    VERSIONS = "Versions"
    SERVER = "Server"
    CLUSTER = "Ray cluster"
    VERIFICATION = "Verification"
    LOGGING = "Logging"


def with_dashes(flag: str) -> str:
    """Returns `--input-type` for `--input_type`: the Object Detection API writes underscores; both are accepted."""
    return flag.replace("_", "-")


CONTEXT_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": with_dashes,
    "max_content_width": 100,
}


class Option(click.Option):
    """An option that `--help` lists under the heading of its section."""

    def __init__(self, *args: Any, section: Section = Section.LOGGING, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class RenamedOption(click.Option):
    """The old name of an option: not in the help, accepted for one more version with a deprecation line on stderr."""

    def __init__(self, *args: Any, renamed_to: str, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "hidden": True})
        self.renamed_to = renamed_to

    def move_value(self, context: click.Context) -> None:
        """Passes the value on to the option of the new name.

        Raises: click.UsageError if both names were given.
        """
        assert self.name is not None
        value = context.params.pop(self.name)
        if context.get_parameter_source(self.name) is not ParameterSource.COMMANDLINE:
            return
        target = next(param for param in context.command.params if self.renamed_to in param.opts)
        assert target.name is not None
        if context.get_parameter_source(target.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{self.opts[0]} is the old name of {self.renamed_to}: give only one", ctx=context)
        terminal.print_line(
            f"deprecated: {self.opts[0]} is now {self.renamed_to}; the old name will stop working in the next version"
        )
        context.params[target.name] = value
        context.set_parameter_source(target.name, ParameterSource.COMMANDLINE)


class Switch(Option):
    """`--flag`, `--flag=true` and `--flag=false`, as tensorflow_model_server accepts its boolean flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "type": bool, "metavar": "[=true|false]"})


class Command(click.Command):
    """A command whose `--help` lists its options by section, and which accepts old names of options and switches."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        switches = {name for option in self.params if isinstance(option, Switch) for name in option.opts}
        args = [f"{arg}=true" if with_dashes(arg) in switches else arg for arg in args]
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            for param in self.params:
                if isinstance(param, RenamedOption):
                    param.move_value(ctx)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        with terminal.quiet_tensorflow():
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one list of options a section."""
        by_section: dict[str, list[tuple[str, str]]] = {section.value: [] for section in Section}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                section = param.section.value if isinstance(param, Option) else "Help"
                by_section.setdefault(section, []).append(record)
        for heading, records in by_section.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def command(name: str, cls: type[Command] = Command) -> Callable[[Callable[..., int | None]], Command]:
    """Returns a decorator that makes a function a command, with the options that every command has."""

    def decorate(function: Callable[..., int | None]) -> Command:
        decorated = log_level(traceback(function))
        return click.command(name, cls=cls, context_settings=CONTEXT_SETTINGS)(decorated)

    return decorate


def option(*flags: str, section: Section, **settings: Any) -> Decorator[Any]:
    """Returns a decorator that gives a command an option in this section of its help."""
    return click.option(*flags, **{"cls": Option, "section": section, **settings})


def renamed(old: str, *, to: str, **settings: Any) -> Decorator[Any]:
    """Returns a decorator that gives a command the old name of an option; `settings` are those of the new one."""
    return click.option(old, f"old_{old.strip('-').replace('-', '_')}", cls=RenamedOption, renamed_to=to, **settings)


# Types.


class InputShape(click.ParamType):
    """`1,300,300,3`, where -1 leaves a dimension open -> (1, 300, 300, 3), with None for -1."""

    name = "N,H,W,C"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | None, ...]:
        try:
            sizes = [int(size) for size in value.strip("[]()").split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of sizes such as 1,300,300,3 or -1,-1,-1,3", param, ctx)
        if len(sizes) != 4 or any(size < 1 and size != -1 for size in sizes):
            self.fail(f"{value!r} must be four sizes (images, height, width, channels), each above 0 or -1", param, ctx)
        return tuple(None if size == -1 else size for size in sizes)


class NamedTensor(click.ParamType):
    """`NAME=TENSOR` -> (NAME, TENSOR)."""

    name = "NAME=TENSOR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, equals, tensor = value.partition("=")
        if not (name.isidentifier() and equals and tensor):
            self.fail(f"{value!r} is not NAME=TENSOR, such as inputs=image_tensor:0", param, ctx)
        return name, tensor


def as_mapping(context: click.Context, param: click.Parameter, value: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Returns the pairs of a repeated option as a dictionary."""
    return dict(value)


class LabelVersion(click.ParamType):
    """`LABEL=VERSION` -> (LABEL, VERSION)."""

    name = "LABEL=VERSION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        label, _, version = value.partition("=")
        if not (label and version.isdecimal()):
            self.fail(f"{value!r} is not LABEL=VERSION, such as stable=3", param, ctx)
        return label, int(version)


class Names(click.ParamType):
    """`detection_masks,detection_keypoints` -> a tuple of names."""

    name = "NAME,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(name.strip() for name in value.split(",") if name.strip())


# Options that several commands share.

log_level = option(
    "--log-level",
    section=Section.LOGGING,
    type=click.Choice([level.name.lower() for level in terminal.LogLevel]),
    expose_value=False,
    callback=lambda context, param, value: terminal.set_log_level(value),
    help="What to print on stderr. error: only errors. warning (default): also warnings. info: also each step of the "
    "work. debug: also TensorFlow's log.",
)
traceback = option(
    "--traceback",
    section=Section.LOGGING,
    is_flag=True,
    expose_value=False,
    help="Print the Python traceback of an error.",
)
as_json = option(
    "--json", "as_json", section=Section.OUTPUT, is_flag=True, help="Print the result on stdout as JSON."
)  # fmt: skip
quiet = option("--quiet", "-q", section=Section.LOGGING, is_flag=True, help="Print nothing but warnings and errors.")
overwrite = option("--overwrite", section=Section.OUTPUT, is_flag=True, help="Replace existing output files.")
report = option(
    "--report",
    "report_path",
    section=Section.VERIFICATION,
    type=PATH,
    metavar="FILE.html",
    help="Also write the results of the verification as an HTML page.",
)
runtimes = option(
    "--for",
    "runtimes",
    section=Section.VERIFICATION,
    multiple=True,
    metavar="SERVER",
    help="Fail if this server does not know an operation of the model, such as tensorflow-serving:2.6, kserve or "
    "sagemaker:2.19 (repeatable).",
)


def verify(what: str) -> Decorator[Any]:
    """Returns the option `--verify/--no-verify` of a command; `what` says what is verified."""
    return option(
        "--verify/--no-verify",
        section=Section.VERIFICATION,
        default=True,
        help=f"Load, run and compare {what} before it is moved into place (default), or skip these checks.",
    )


def label_map(help: str = "Label map (.pbtxt) with class names. Default: the one in the SavedModel's assets/.") -> Any:
    """Returns the option `--label-map`."""
    return option("--label-map", section=Section.INPUT, type=PATH, help=help)
