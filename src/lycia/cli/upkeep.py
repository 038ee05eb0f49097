"""Commands that look after what is kept: check it, back it up, put it back."""

from pathlib import Path
from typing import Annotated

import typer

from lycia import config
from lycia.cli.options import AsJson, Home, Kept
from lycia.cli.telling import need, out, print_json


def scrub(
    home: Home = None,
    database: Kept = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the files that nothing refers to.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check all that a coordinator keeps, or the folder of a simulated run; name what is damaged. Exit status 1 if so.

    Works while a coordinator serves, too; then it does not look for files that nothing refers to.
    """
    from contextlib import nullcontext

    from lycia.deployment.holding import held, is_held
    from lycia.storage import findings
    from lycia.storage.scrub_run import is_run_folder, scrub_run

    folder = home or config.coordinator_home()
    if is_run_folder(folder):
        found = scrub_run(folder)
        removed = findings.remove(found.orphans) if remove and found.orphans else 0
    else:
        need("server", "sqlalchemy", "alembic")
        from lycia.storage.homes import check_is_home
        from lycia.storage.scrub import scrub as scrub_home

        check_is_home(folder)
        # Nobody may begin to serve while files are deleted of which it is not known yet that they are needed.
        with held(folder, "the coordinator") if remove else nullcontext():
            found = scrub_home(folder, database or "", is_served=not remove and is_held(folder))
            removed = findings.remove(found.orphans) if remove and found.orphans else 0
    data = {**found.to_data(), "home": str(folder), "removed_bytes": removed}
    if as_json:
        print_json(data)
    else:
        for damage in found.damages:
            place = ", ".join([*([damage.run] if damage.run else []), *([damage.file] if damage.file else [])])
            told = f"damaged: {damage.what}\n  where: {place}\n  means: {damage.means}\n  do:    {damage.do}"
            out.print(told, markup=False, soft_wrap=True)
        told = f"{found.runs} runs and {found.files} files looked at: "
        out.print(f"{told}{f'{len(found.damages)} damages' if found.damages else 'all sound'}")
        if found.orphans is None:
            told = "files that nothing refers to were not looked for: a coordinator serves, or something is damaged"
            out.print(told, soft_wrap=True)
        elif found.orphans and not remove:
            size = sum(path.stat().st_size for path in found.orphans)
            told = f"{len(found.orphans)} files ({size} bytes) that nothing refers to; --remove deletes them"
            out.print(told)
        elif found.orphans:
            out.print(f"removed {len(found.orphans)} files ({removed} bytes) that nothing refers to")
    if found.damages:
        raise typer.Exit(1)


def backup(
    target: Annotated[Path, typer.Argument(help="A new folder, or FILE.tar, to write the backup to.")],
    home: Home = None,
    database: Kept = None,
    as_json: AsJson = False,
) -> None:
    """Back up all that a coordinator keeps, its keys included, also while it serves."""
    need("server", "sqlalchemy", "alembic")
    from lycia.storage.backup import back_up

    about = back_up(home or config.coordinator_home(), target, database or "")
    if as_json:
        print_json({**about, "backup": str(target)})
    else:
        told = f"backed up {len(about['runs'])} runs and {about['blobs']} blobs to {target}"
        out.print(f"{told}\nit holds the coordinator's keys: keep it as safe as those", markup=False, soft_wrap=True)


def restore(
    source: Annotated[Path, typer.Argument(help="What `lycia backup` wrote.")],
    home: Annotated[Path, typer.Option(help="The coordinator's new folder: an empty one.")],
    database: Annotated[
        str | None,
        typer.Option(
            help="An empty database, such as postgresql://USER@HOST/NAME.  [default: a file in the folder]",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a coordinator's folder from a backup. Runs that were under way are paused at the round that was open."""
    need("server", "sqlalchemy", "alembic")
    from lycia.deployment.holding import held
    from lycia.storage.disk import make_folder
    from lycia.storage.restoring import restore as restore_into

    make_folder(home, fsync=True)
    with held(home, "the coordinator"):
        about = restore_into(source, home, database or "")
    if as_json:
        return print_json(about)
    out.print(f"restored the backup of {about['made']} into {home}", markup=False, soft_wrap=True)
    for run in about["paused"]:
        out.print(f"paused: {run}", markup=False, soft_wrap=True)
    again = f"lycia serve --home {home}{' --database …' if database else ''}"
    return out.print(
        f"go on with: {again}, then lycia resume RUN\nwhoever was revoked since the backup is a member again: see "
        "lycia nodes, lycia revoke",
        markup=False,
        soft_wrap=True,
    )
