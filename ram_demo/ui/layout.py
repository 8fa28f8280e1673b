"""The page as a whole: header, tabs, theme, and the options it is launched with."""

from html import escape

import gradio as gr

from ram_demo.arena import Arena
from ram_demo.inspection import Inspector
from ram_demo.models.aligners import Registry
from ram_demo.runs import Runs
from ram_demo.settings import SHIPPED_ALIGNERS, Settings
from ram_demo.standings import Leaderboard
from ram_demo.training.jobs import Jobs
from ram_demo.ui import arena, compare, inspect, leaderboard, owner, shelf, trainer
from ram_demo.ui.assets import web
from ram_demo.ui.guard import Guard
from ram_demo.workbench import Opening

TITLE = "RAM Demo"
LINE = "A frozen model proposes the next token, a small aligner weighs the candidates, one is drawn."
THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.blue,
    neutral_hue=gr.themes.colors.slate,
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    radius_size=gr.themes.sizes.radius_md,
)


def build(settings: Settings, opening: Opening, runs: Runs, jobs: Jobs) -> gr.Blocks:
    """The page, ready to be launched with `launch_options`."""
    registry, guard = Registry(SHIPPED_ALIGNERS, settings.own_aligners), Guard(settings, jobs)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        with gr.Row(elem_classes="masthead"):
            gr.HTML(f"<h1>{TITLE}</h1><p>{LINE}</p>", scale=8)
            status = gr.HTML(status_html(opening), elem_id="status", scale=4, min_width=260)
            theme = gr.Button("Light / dark", size="sm", scale=0, min_width=110, elem_id="theme")
        theme.click(None, js="() => { document.body.classList.toggle('dark') }", api_visibility="private")
        clock = gr.Timer(0.5)

        def tick():
            return status_html(opening), gr.Timer(active=not opening.done)

        clock.tick(tick, None, [status, clock], queue=False, show_progress="hidden", api_visibility="private")

        def state() -> str:
            """What the page is doing: opening and how far, ready, or what went wrong."""
            return status_text(opening)

        gr.api(state, api_name="status")
        with gr.Tabs() as tabs:
            with gr.Tab("Compare", id="compare"):
                picker = compare.build(runs, registry)
            battles = Arena(opening, registry, runs.store)
            with gr.Tab("Arena", id="arena"):
                arena.build(battles)
                owner.build(runs.store, guard)
            with gr.Tab("Leaderboard", id="leaderboard") as tab:
                train = leaderboard.build(Leaderboard(runs.store), guard, tabs, tab)
            with gr.Tab("Inspect", id="inspect"):
                inspect.build(Inspector(runs), battles, guard)
            with gr.Tab("Train", id="train"):
                training = gr.Column()
            with gr.Tab("Aligners", id="aligners"):
                cards = shelf.build(opening, registry, picker, settings.uploads)
            with training:
                source = trainer.build(jobs, opening, runs.store, registry, guard, picker, cards)

        def train_on_votes():
            return gr.Tabs(selected="train"), trainer.VOTES

        train.click(train_on_votes, None, [tabs, source], show_progress="hidden", api_visibility="private")

        def look() -> tuple:
            """What may have changed since the page was built: the proposal's state, and which aligners there are. On a
            busy machine it comes late, so what a person has chosen by then is kept."""
            aligners = {**compare.picker_value(registry), "keep": True}
            return status_html(opening), aligners, shelf.cards_html(registry.packages())

        page.load(look, None, [status, picker, cards], queue=False, show_progress="hidden", api_visibility="private")

        def leave(request: gr.Request) -> None:
            runs.stop(request.session_hash or "")

        page.unload(leave)
    return page


def launch_options(settings: Settings) -> dict:
    """A page for this machine alone unless told otherwise, which serves no files, keeps no history and sends none."""
    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "theme": THEME,
        "css": "".join(map(web, ("colours.css", "page.css", "leaderboard.css", "inspect.css"))),
        "share": False,
        "ssr_mode": False,
        "strict_cors": True,
        "enable_monitoring": False,
        "run_history": False,
        "allowed_paths": [],
        "blocked_paths": [str(settings.data)],
        "max_file_size": shelf.MAX_UPLOAD,
        "footer_links": [],
    }


def status_text(opening: Opening) -> str:
    """The proposal's state in one line."""
    if opening.error:
        return str(opening.error)
    if not opening.done:
        return f"{opening.what} ({opening.share:.0%})"
    source = opening.workbench.proposal.source
    return f"ready: {source.name} ({source.origin}), {opening.workbench.proposal.model.precision}"


def status_html(opening: Opening) -> str:
    """The same for the masthead, with a bar while the model loads."""
    if opening.error:
        return f'<div class="status failed" role="status">{escape(str(opening.error))}</div>'
    if not opening.done:
        return (
            f'<div class="status loading" role="status">{escape(opening.what)}…'
            f'<progress max="1" value="{opening.share:.2f}"></progress></div>'
        )
    proposal = opening.workbench.proposal
    return (
        f'<div class="status ready" role="status">proposal <b>{escape(proposal.source.name)}</b> '
        f"<small>{proposal.source.origin} · {escape(proposal.model.precision)} · ready</small></div>"
    )
