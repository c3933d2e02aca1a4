"""A job: what `prep build` and `prep plan` work out from the settings before they do anything."""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from prep import output
from prep.pairing.recipes import RECIPES
from prep.plan import Plan, make_plan
from prep.settings import Settings
from prep.tokens.tokenizer import PreparedTokenizer
from prep.tokens.tokenizer_source import load_tokenizer
from shards import storage
from shards.command.console import say
from shards.errors import UserError
from shards.manifest import Manifest


@dataclass(frozen=True)
class Job:
    """One build. `recipe` holds the settings that can change the output."""

    settings: Settings
    plan: Plan
    tokenizer: PreparedTokenizer | None  # None: the vocabulary stage trains it
    recipe: dict[str, Any]

    def finished(self) -> Manifest | None:
        """The manifest, if this very build is finished. Raises UserError if another build has the output folder."""
        return output.check(self.settings.out, self.recipe, self.plan.inputs)


def make_job(settings: Settings) -> Job:
    """Lists the corpus and loads the tokenizer. Raises UserError if they do not fit the settings."""
    settings = _with_absolute_places(settings)
    plan = make_plan(settings)
    renamed = list(islice(plan.inputs.renamed(), 1))
    if renamed:
        say(f"note: {renamed[0].url} has the name of a file in an earlier --corpus; here it is called {renamed[0].name}")
    if settings.trained_vocab_size:
        return Job(settings, plan, None, settings.recipe(settings.tokenizer))
    tokenizer = load_tokenizer(settings.tokenizer, settings.cased)
    check_tokenizer(settings, tokenizer)
    return Job(settings, plan, tokenizer, settings.recipe(tokenizer.identity))


def check_tokenizer(settings: Settings, tokenizer: PreparedTokenizer) -> None:
    """Raises UserError if the recipe needs something that the tokenizer does not have."""
    name = settings.tokenizer
    pair = tokenizer.templates.get("pair")
    template = RECIPES[settings.pairing].template
    if template == "pair" and (pair is None or not pair.prefix):
        raise UserError(
            f"--tokenizer {name}: has no template for pairs (a post-processor that sets {'a classifier and ' if pair else ''}"
            f"separator tokens around two segments), which --pairing {settings.pairing} needs; use --pairing none or another"
        )
    if template == "single" and "single" not in tokenizer.templates:
        raise UserError(
            f"--tokenizer {name}: gives no token for any plain text, so its special tokens cannot be found; use another"
        )
    num_special = tokenizer.templates[template].num_special
    if num_special + settings.document_overlap >= settings.max_seq_len:
        overlap = f" and --document-overlap {settings.document_overlap}" if settings.document_overlap else ""
        raise UserError(
            f"--max-seq-len is {settings.max_seq_len}, must be above the {num_special} special tokens of --tokenizer "
            f"{name}{overlap} together"
        )
    if settings.cross_documents and "sep" not in tokenizer.roles:
        raise UserError(f"--tokenizer {name}: has no separator token, which --cross-documents needs; use another")
    if settings.mask_unit != "token" and tokenizer.word_flags is None:
        raise UserError(
            f"--tokenizer {name}: its tokens do not show where words begin, which --mask-unit {settings.mask_unit} needs; use "
            "--mask-unit token or another"
        )


def _with_absolute_places(settings: Settings) -> Settings:
    """Makes places absolute for workers with another working directory; local workers have the same, so messages stay short."""
    if settings.engine == "local":
        return settings
    corpus = tuple(storage.absolute(url) for url in settings.corpus)
    return replace(settings, corpus=corpus, out=storage.absolute(settings.out), scratch=storage.absolute(settings.scratch))
