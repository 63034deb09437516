"""The captions of each track in the end: its own, or composed of what tables, sidecars, names, tags and measuring tell."""

import dataclasses

from data_prep.captions import clean_captions
from data_prep.templates import CaptionTemplate, PathTemplate
from data_prep.tracks import Rejection, Sources, Track, with_columns
from riffusion_train.config.prepare import CaptionSource, PrepareConfig, TemplateUse
from riffusion_train.dataset.layout import COLUMNS
from riffusion_train.runtime.errors import InputError

_TAG_TEMPLATE = "{comment|genre}"
"""What captions=tags makes without a caption_template: a title says little about a sound, a comment or genre more."""


def needs_work_first(config: PrepareConfig) -> bool:
    """Tell whether captions wait for what the workers read or measure in the files."""
    return bool(config.measure) or config.captions is CaptionSource.tags


def add_path_fields(sources: Sources, config: PrepareConfig) -> Sources:
    """Add the fields that `path_template` reads out of the files' names as columns.

    Raises:
        InputError: If the template cannot be used, or fits no file.
    """
    if config.path_template is None:
        return sources
    template = PathTemplate(config.path_template)
    for name in template.fields:
        if name in COLUMNS:
            raise InputError(f"path_template: '{name}' is a name the dataset itself uses; call the field otherwise")
    found = [template.read(track.source) for track in sources.tracks]
    if not any(found):
        raise InputError(f"path_template={template.text} fits no file; the first is {sources.tracks[0].source}")
    return with_columns(sources, [fields or {} for fields in found], template.fields)


def finish_captions(sources: Sources, config: PrepareConfig) -> Sources:
    """Give each track its captions in the end: compose, add the trigger word, and reject what has none.

    Raises:
        InputError: If `caption_template` cannot be used.
    """
    text = config.caption_template or (_TAG_TEMPLATE if config.captions is CaptionSource.tags else None)
    template = CaptionTemplate(text) if text else None
    if template and config.caption_template:
        template.check(sources.extra_types)
    return dataclasses.replace(sources, tracks=[_captioned(track, template, config) for track in sources.tracks])


def _captioned(track: Track, template: CaptionTemplate | None, config: PrepareConfig) -> Track:
    captions = track.captions
    if template and (not captions or config.template_use is TemplateUse.add):
        captions = clean_captions([*captions, template.fill(track.columns) or ""])
    captions = captions or clean_captions([config.default_caption or ""])
    if config.trigger:
        captions = clean_captions(f"{config.trigger}, {caption}" for caption in captions)
    rejection = track.rejection
    if not captions and rejection is None:
        composed = ", and caption_template finds nothing to compose one of" if template else ""
        rejection = Rejection("no caption", f"{track.lacking}{composed}, or give default_caption=")
    return dataclasses.replace(track, captions=captions, rejection=rejection)
