from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from django import forms

from example_project.inbox.documents import check_size, checked_text
from example_project.inbox.models import Document

if TYPE_CHECKING:
    from django.core.files.uploadedfile import UploadedFile

SAMPLES = {
    path.name: path
    for path in sorted((Path(__file__).parent.parent / "sample_documents").iterdir())
}
SUFFIXES = (".md", ".markdown", ".txt", ".text")


def text_of(content: bytes) -> str:
    """Return the text of a document, or say why it is none."""
    try:
        return checked_text(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise forms.ValidationError("This is no UTF-8 text. Save it as UTF-8.") from None
    except ValueError as exc:
        raise forms.ValidationError(str(exc)) from None


class UploadForm(forms.ModelForm):  # type: ignore[type-arg]
    """A file, a pasted text, or one of the samples."""

    file = forms.FileField(
        label="A text or Markdown file",
        required=False,
        widget=forms.ClearableFileInput(attrs={"accept": ",".join((*SUFFIXES, "text/*"))}),
    )
    pasted = forms.CharField(
        label="or a pasted text",
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 5}),
    )

    sample = forms.ChoiceField(
        label="or a sample",
        required=False,
        choices=[("", "none"), *((name, name) for name in SAMPLES)],
    )

    class Meta:
        model = Document
        fields = ("trouble",)
        labels = {"trouble": "The model that classifies is"}  # noqa: RUF012
        widgets = {"trouble": forms.RadioSelect}  # noqa: RUF012

    field_order = ("file", "pasted", "sample", "trouble")

    def clean_file(self) -> UploadedFile | None:
        file: UploadedFile | None = self.cleaned_data["file"]
        if file is None:
            return None
        if not str(file.name).lower().endswith(SUFFIXES):
            raise forms.ValidationError(
                f"The name {file.name!r} is not that of a text or Markdown file. "
                f"It should end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}."
            )
        try:
            check_size(file.size or 0)
        except ValueError as exc:
            raise forms.ValidationError(str(exc)) from None
        self.instance.text = text_of(file.read())
        self.instance.name = Path(str(file.name)).name[:200]
        return file

    def clean_pasted(self) -> str:
        pasted: str = self.cleaned_data["pasted"]
        if pasted.strip():
            self.instance.text = text_of(pasted.encode())
            first = pasted.strip().splitlines()[0].lstrip("# ").strip()
            self.instance.name = (first or "Pasted text")[:60]
        return pasted

    def clean_sample(self) -> str:
        sample: str = self.cleaned_data["sample"]
        if sample:
            self.instance.text = SAMPLES[sample].read_text(encoding="utf-8")
            self.instance.name = sample
        return sample

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        if self.errors.keys() & {"file", "pasted", "sample"}:
            return found
        given = [found.get("file"), found.get("pasted", "").strip(), found.get("sample")]
        count = sum(map(bool, given))
        if not count:
            raise forms.ValidationError("Choose a file, paste a text, or take a sample.")
        if count > 1:
            raise forms.ValidationError(
                "These are several documents. Leave all but one of file, text and sample empty."
            )
        return found
