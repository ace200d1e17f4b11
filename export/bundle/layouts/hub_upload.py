"""Uploads a layout to the Hugging Face Hub: https://huggingface.co/docs/huggingface_hub/guides/upload."""

from __future__ import annotations

from pathlib import Path

from paredown.runtime.errors import InputError, StepError, one_line

# Files of an earlier upload that this one may not have; a reader would find them first.
REPLACED = ["onnx/*", "openvino/*", "1_Pooling/*", "2_Normalize/*", "modules.json", "sentence_bert_config.json"]


class Upload:
    """Publishes a directory as the repository OWNER/NAME, which is made private where there is none."""

    def __init__(self, repository: str) -> None:
        """InputError where it is no OWNER/NAME, or nobody is logged in."""
        from huggingface_hub import get_token
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise InputError(f"--push {repository}: {one_line(error)}") from None
        if "/" not in repository:
            raise InputError(f"--push {repository}: give the owner too: OWNER/{repository}")
        if not get_token():
            raise InputError(f"--push {repository}: not logged in to the Hub; run `hf auth login`, or set HF_TOKEN")
        self.repository = repository

    def __call__(self, folder: Path) -> str:
        """The address of the commit. StepError when the Hub cannot be reached or refuses; `folder` stays."""
        from huggingface_hub import HfApi

        api, name = HfApi(), self.repository
        try:
            api.create_repo(name, repo_type="model", private=True, exist_ok=True)
            return str(
                api.upload_folder(
                    repo_id=name, folder_path=folder, commit_message="Packed by paredown", delete_patterns=REPLACED
                )
            )
        except Exception as error:  # its HTTP library, with errors of its own, depends on its version
            raise StepError(
                f"--push {name}: {one_line(error)}; {folder} is written, upload it with: hf upload {name} {folder}"
            ) from None
