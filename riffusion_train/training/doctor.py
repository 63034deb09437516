"""What this machine can do for training, tried out where that is possible, and what to change."""

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path

import torch

from riffusion_train.runtime.provenance import machine, versions
from riffusion_train.torchaudio_guard import extension_error

_GIB = 2**30
_LITTLE_DISK_GIB = 20
_LITTLE_SHARED_GIB = 1
_LORA_GIB = 7.5

_OPTIONAL = {
    "ray": "riffusion prepare engine=ray",
    "tensorboard": "tracker=tensorboard",
    "wandb": "tracker=wandb",
    "trackio": "tracker=trackio",
    "submitit": "sweeps on Slurm",
}
"""Optional packages, and what each is for."""


@dataclasses.dataclass
class MachineReport:
    """The findings: a text for each title, and fixes for what could be better."""

    rows: dict[str, str] = dataclasses.field(default_factory=dict)
    fixes: list[str] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """Return everything as lines for a terminal."""
        lines = [f"{title:<16} {text}" for title, text in self.rows.items()]
        advice = [f"  - {fix}" for fix in self.fixes] or ["  nothing"]
        return [*lines, "", "what to change:", *advice]


def examine() -> MachineReport:
    """Look at versions, devices, number formats, optional packages, disk and caches."""
    report = MachineReport(versions())
    here = machine()
    report.rows["machine"] = f"{here['processor']}, {here['cores']} cores, {here['memory_gib']} GiB, {here['system']}"
    report.rows["threads"] = f"{torch.get_num_threads()} of torch in one process (num_threads=N)"
    _devices(report)
    _libraries(report)
    _compiler(report)
    _storage(report)
    return report


def _devices(report: MachineReport) -> None:
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        memory = card.total_memory / _GIB
        device = torch.device("cuda", index)
        report.rows[f"cuda:{index}"] = f"{card.name}, {memory:.0f} GiB, trains in {_formats(device)}"
        if not trains_in(device, torch.bfloat16):
            report.fixes.append(f"cuda:{index} has no bf16: take mixed_precision=fp16")
        if memory < _LORA_GIB:
            report.fixes.append(
                f"cuda:{index} has {memory:.0f} GiB: experiment=sd15_lora_8gb is made for a card of 8 GB"
            )
    if torch.backends.mps.is_available():
        report.rows["mps"] = f"available, trains in {_formats(torch.device('mps'))}"
    if torch.accelerator.is_available():
        return
    report.rows["cpu"] = f"the only device, trains in {_formats(torch.device('cpu'))}"
    if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        report.fixes.append(
            f"an NVIDIA driver is here, but torch {torch.__version__} does not see a GPU: install the CUDA build of torch "
            "(https://pytorch.org/get-started)"
        )
    else:
        report.fixes.append(
            "no GPU: experiment=tiny_cpu trains here; Stable Diffusion 1.5 needs a GPU with 8 GiB or more"
        )


def _formats(device: torch.device) -> str:
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    able = [name for name, dtype in kinds.items() if trains_in(device, dtype)]
    if device.type == "cpu" and "fp16" in able:
        able.remove("fp16")  # its range needs a gradient scaler, which only GPUs have
    return ", ".join(able)


def trains_in(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a convolution, attention and their gradients can be computed in a dtype on a device; it tries."""
    if (
        device.type == "cuda"
        and dtype is torch.bfloat16
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        return False
    try:
        pixels = torch.randn(1, 8, 8, 8, device=device, requires_grad=True)
        kernel = torch.randn(8, 8, 3, 3, device=device, requires_grad=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
            rows = torch.nn.functional.conv2d(pixels, kernel, padding=1).flatten(2)
            mixed = torch.nn.functional.scaled_dot_product_attention(rows, rows, rows)
        mixed.float().square().mean().backward()
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return kernel.grad is not None and bool(kernel.grad.isfinite().all())


def _libraries(report: MachineReport) -> None:
    _torchaudio(report)
    report.rows["peft"] += ", LoRA, DoRA and rank-stabilised LoRA" if _imports("peft") else ", which cannot be imported"
    for package, use in _OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            report.rows[package] = f"not installed; for {use}: pip install {package}"
        else:
            report.rows[package] = f"{importlib.metadata.version(package)}, for {use}"
    _bitsandbytes(report)


def _torchaudio(report: MachineReport) -> None:
    try:
        from torchaudio.functional import melscale_fbanks

        melscale_fbanks(65, 0.0, 8000.0, 8, 16000)
    except (ImportError, OSError) as error:
        report.rows["torchaudio"] += f", cannot be imported: {error}"
        report.fixes.append(_same_build())
        return
    report.rows["torchaudio"] += (
        ", filter banks and transforms, all that is used of it; files are read by soundfile and PyAV"
    )
    if extension_error() is not None:
        report.rows["torchaudio"] += (
            f"; its extension is for another build than torch {torch.__version__}, and left out"
        )
        report.fixes.append(
            "riffusion works without torchaudio's extension; a program that imports torchaudio, transformers or diffusers "
            f"fails if TORCH_DEVICE_BACKEND_AUTOLOAD=0 is set and riffusion_train is not imported first. {_same_build()}"
        )


def _same_build() -> str:
    """Return the command that installs torch and torchaudio for one build."""
    cuda = torch.version.cuda
    index = "cpu" if cuda is None else f"cu{cuda.replace('.', '')}"
    return (
        "to install torch and torchaudio of one build: pip install --force-reinstall torch torchaudio "
        f"--index-url https://download.pytorch.org/whl/{index}"
    )


def _imports(package: str) -> bool:
    try:
        importlib.import_module(package)
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def _bitsandbytes(report: MachineReport) -> None:
    title = "bitsandbytes"
    if importlib.util.find_spec(title) is None:
        report.rows[title] = "not installed; for 8-bit optimizers: pip install bitsandbytes"
        if torch.cuda.is_available():
            report.fixes.append("pip install bitsandbytes: 8-bit optimizers save 4.8 GiB in full fine-tuning")
        return
    able = "its 8-bit optimizers work here" if _steps_in_8_bits() else "its 8-bit optimizers do not work here"
    report.rows[title] = f"{importlib.metadata.version(title)}, {able}"


def _steps_in_8_bits() -> bool:
    """Try one step; small weights keep 32 bits, so the weight is larger than 4,096."""
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
        weight = torch.nn.Parameter(torch.ones(64, 128, device="cuda" if torch.cuda.is_available() else "cpu"))
        weight.grad = torch.ones_like(weight)
        bitsandbytes.optim.AdamW8bit([weight], lr=0.1).step()
    except Exception:  # whatever a native library raises where it does not fit the machine
        return False
    return bool((weight != 1).all())


def _compiler(report: MachineReport) -> None:
    compiler = next((name for name in ("c++", "g++", "clang++", "cl") if shutil.which(name)), None)
    on_gpu = torch.cuda.is_available()
    triton = importlib.util.find_spec("triton") is not None
    able = bool(compiler) and (triton or not on_gpu)
    lack = "no C++ compiler" if not compiler else "no triton"
    report.rows["torch.compile"] = f"possible, with {compiler}" if able else f"not possible: {lack}"


def _storage(report: MachineReport) -> None:
    for title, path in storage_folders().items():
        free = _free_gib(path)
        size = "empty" if not path.exists() else "exists"
        report.rows[title] = f"{path} ({size}), {free:.0f} GiB free"
        if free < _LITTLE_DISK_GIB:
            need = (
                "a checkpoint of full fine-tuning takes 13 GiB"
                if title == "disk here"
                else "models are downloaded there"
            )
            report.fixes.append(f"{path} has {free:.0f} GiB free; {need}")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        report.rows["hub"] = "HF_HUB_OFFLINE is set: only models that are in the cache can be used"
    shared = Path("/dev/shm")
    if shared.is_dir():
        gib = shutil.disk_usage(shared).total / _GIB
        report.rows["shared memory"] = f"{gib:.1f} GiB"
        if gib < _LITTLE_SHARED_GIB:
            report.fixes.append("shared memory is small for loader processes: docker run --shm-size=8g, or no workers")


def storage_folders() -> dict[str, Path]:
    """Return the folders that take disk space: runs here, models of the hub, compiled networks."""
    from huggingface_hub.constants import HF_HUB_CACHE

    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    folders = {"disk here": Path.cwd(), "hub cache": Path(HF_HUB_CACHE)}
    return folders | ({"compile cache": Path(compiled)} if compiled else {})


def _free_gib(path: Path) -> float:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(existing).free / _GIB
