"""The Aligners tab: the cards of what there is, and the import of a user's own. Knows the registry, not decoding."""

from html import escape
from pathlib import Path

import gradio as gr

from ram_demo.errors import UserError
from ram_demo.models.aligners import Package, Registry
from ram_demo.ui.compare import picker_value
from ram_demo.workbench import Opening

MAX_UPLOAD = "512mb"


def build(opening: Opening, registry: Registry, picker: gr.HTML, may_import: bool) -> gr.HTML:
    """Lay out the tab and return its cards. may_import: strangers on a public page cannot fill its disk."""
    cards = gr.HTML(cards_html(registry.packages()), elem_id="cards", label="Aligners")
    if not may_import:
        gr.Markdown("Importing is off on this page, because it can be reached by others. Its host can switch it on.")
        return cards
    gr.Markdown(
        "### Import an aligner\nA zip of a PEFT folder (`adapter_config.json` and `adapter_model.safetensors`) or of a "
        "whole small model with the proposal's tokenizer. Pickles are refused."
    )
    with gr.Row():
        upload = gr.File(label="Zip", file_types=[".zip"], type="filepath", elem_id="upload", height=140)
        said = gr.Markdown("", elem_id="imported")

    def take(path: str | None, picked: dict):
        if not path:
            return gr.update(), gr.update(), gr.update()
        try:
            name = opening.wait().import_aligner(Path(path))
        except UserError as error:
            raise gr.Error(escape(str(error)), print_exception=False) from None
        finally:
            Path(path).unlink(missing_ok=True)
        value = picker_value(registry, (picked or {}).get("chosen") or {})
        return cards_html(registry.packages()), value, f"Imported **{escape(name)}**. It is in Compare now."

    upload.upload(take, [upload, picker], [cards, picker, said], concurrency_limit=1, api_visibility="private")
    return cards


def cards_html(packages: list[Package]) -> str:
    """Every card as HTML, with all text escaped: a card is a file that anybody may have written."""
    if not packages:
        return '<p class="empty">No aligners yet.</p>'
    return '<div class="cards">' + "".join(map(_card, packages)) + "</div>"


def _effect(effect: dict) -> dict[str, str]:
    """What was measured, base beside aligned, as names and words."""
    facts = {}
    base, aligned = effect.get("base"), effect.get("aligned")
    if isinstance(base, dict) and isinstance(aligned, dict):
        facts = {
            name.replace("_", " "): f"{base[name]:g} in the base, {aligned[name]:g} aligned"
            for name in base
            if isinstance(base[name], (int, float)) and isinstance(aligned.get(name), (int, float))
        }
    numbers = {k: v for k, v in effect.items() if isinstance(v, (int, float))}
    return facts | {name.replace("_", " "): f"{value:g}" for name, value in numbers.items()}


def _card(package: Package) -> str:
    card = package.card
    gate = "off" if card.tau is None else f"{card.tau:g}"
    facts = {
        "kind": card.kind,
        "base": card.base,
        "tokenizer": card.tokenizer,
        "data": card.data,
        "licence": card.license,
        "recipe": ", ".join(f"{k} {v}" for k, v in card.recipe.items() if k != "name"),
        "recommended": f"strength {card.beta:g}, gate {gate}, mode {card.mode}",
        **_effect(card.effect),
    }
    rows = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in facts.items()
        if value not in ("", None)
    )
    where = "shipped" if package.shipped else "your own"
    body = f'<p class="problem">{escape(package.problem)}</p>' if package.problem else f"<dl>{rows}</dl>"
    return (
        f"<article><header><h3>{escape(package.name)}</h3><small>{where}</small></header>"
        f"<p>{escape(card.description)}</p>{body}</article>"
    )
