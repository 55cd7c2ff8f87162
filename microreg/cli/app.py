"""The typer application: every command, those of plugins, and what happens to an error."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Annotated, cast

import typer
from typer.main import get_command

from microreg.cli import doctor, get, list_, plugins, register, serve, verify, watch, why
from microreg.cli import run as run_
from microreg.cli.demo.command import demo
from microreg.cli.errors import WarningLines, failed, prepare_streams
from microreg.cli.loop import end_quietly

__all__ = ["build", "run"]

log = logging.getLogger("microreg.cli")

_EXIT_CODES = (
    "Exit codes: 0 ok · 1 not found (get, why), or not as it should be (demo, doctor, verify, plugins) · "
    "2 wrong usage or config · "
    "3 registry unavailable or too slow · 4 permission denied · 70 a bug · 74 the output cannot be written · "
    "130 interrupted, 143 terminated, 141 nobody reads the output any more. register that left cleanly ends with 0, "
    "whatever asked it to stop. run ends with the exit code of its program, 126 or 127 where that cannot be started."
)
_ENVIRONMENT = (
    "Environment: MICROREG_REGISTRY, the registry where --registry is not given; MICROREG_ADVERTISE, the host "
    "or host:port that is announced. A registry URL takes a password from the environment as ${NAME}. "
    "MICROREG_TRACEBACK=1 shows where a bug is."
)


def build() -> typer.Typer:
    """The application with the commands of microreg, without those of plugins."""
    app = typer.Typer(
        name="microreg",
        help="Services find each other: see what is registered, follow it, announce a service.",
        epilog=f"{_EXIT_CODES}\n\n{_ENVIRONMENT}",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    for name, function in (
        ("list", list_.list_services),
        ("get", get.get_service),
        ("watch", watch.watch),
        ("register", register.register),
        ("run", run_.run),
        ("serve", serve.serve),
        ("why", why.why),
        ("doctor", doctor.doctor),
        ("verify", verify.verify),
        ("plugins", plugins.plugins),
        ("demo", demo),
    ):
        settings = {"allow_interspersed_args": False} if name == "run" else None
        app.command(name, help=_help(function), epilog=_EXIT_CODES, context_settings=settings)(function)
    return app


def _help(function: Callable[..., int]) -> str:
    """The docstring with every paragraph on one line, so that the terminal decides where lines break."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def run(arguments: list[str]) -> int:
    """Run the command in ``arguments`` and return its exit code. Prints errors, and never a traceback."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in own and own[0] != "run"  # what follows belongs to another program
    prepare_streams()
    handler = WarningLines()
    if own[:1] == ["plugins"]:
        handler.addFilter(lambda record: record.name != "microreg.plugins")  # it is what this command prints
    root = logging.getLogger("microreg")
    root.addHandler(handler)
    try:
        app = build()
        _add_plugins(app)
        result = get_command(app).main(args=arguments, prog_name="microreg", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        return end_quietly()
    except (Exception, KeyboardInterrupt) as error:
        return failed(error, as_json=as_json)
    finally:
        root.removeHandler(handler)


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        import microreg

        typer.echo(f"microreg {microreg.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def _add_plugins(app: typer.Typer) -> None:
    """Let plugins add commands (hook ``microreg_cli``). One that breaks is one warning and changes nothing."""
    from microreg.hookspecs import App
    from microreg.plugins import hooks

    with redirect_stdout(sys.stderr):  # what a plugin prints when imported is no part of a command's output
        manager = hooks()
    for plugin in [each.plugin for each in manager.hook.microreg_cli.get_hookimpls()]:
        commands, groups = list(app.registered_commands), list(app.registered_groups)
        others = [each for each in manager.get_plugins() if each is not plugin]
        try:
            manager.subset_hook_caller("microreg_cli", others)(app=cast(App, app))
            get_command(app)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            app.registered_commands, app.registered_groups = commands, groups
            log.warning(
                "skipped the commands of the broken plugin %s: %s: %s",
                manager.get_name(plugin),
                type(error).__name__,
                error,
                extra={"plugin": manager.get_name(plugin), "error": f"{type(error).__name__}: {error}"},
            )
