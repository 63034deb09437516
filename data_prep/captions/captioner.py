"""Captioners of the user's own: a Python function, or a chat endpoint that hears audio.

The endpoint speaks the protocol of OpenAI's chat completions: https://platform.openai.com/docs/guides/audio
"""

import base64
import hashlib
import importlib
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import numpy as np

from data_prep.captions.text import clean_captions
from riffusion_train.audio.read import decode_audio, resample
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.runtime.errors import InputError, one_line
from riffusion_train.runtime.files import is_url


class Answer(NamedTuple):
    """What a captioner says about one track: captions, or why there are none."""

    captions: tuple[str, ...] = ()
    problem: str = ""


class Captioner(Protocol):
    """Makes captions of audio files."""

    key: str
    """Changes with everything that decides the captions of a given file."""
    paths_per_call: int
    calls_at_a_time: int

    def ask(self, paths: Sequence[Path], stopped: Callable[[], bool]) -> list[Answer]:
        """Return an answer for each file.

        Args:
            paths: Local files, at most `paths_per_call`.
            stopped: Whether to give up waiting.

        Raises:
            InputError: If it cannot answer for any file.
        """


def make_captioner(config: PrepareConfig) -> Captioner:
    """Return the captioner that `captioner=` names, without asking it anything.

    Raises:
        InputError: If the function cannot be imported, or the endpoint lacks a model or a key.
    """
    text = config.captioner or ""
    if not is_url(text):
        return FunctionCaptioner(text, config.captioner_batch_size)
    return EndpointCaptioner(
        text,
        model=_model(config),
        prompt=config.captioner_prompt,
        api_key=_api_key(config),
        heard_s=config.captioner_s,
        calls_at_a_time=config.captioner_batch_size,
    )


def _model(config: PrepareConfig) -> str:
    if config.captioner_model is None:
        raise InputError(f"captioner={config.captioner}: name the model with captioner_model=")
    return config.captioner_model


def _api_key(config: PrepareConfig) -> str | None:
    name = config.captioner_key_env
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise InputError(
            f"captioner={config.captioner}: the environment variable {name} is not set; put the key in it, name another "
            "one with captioner_key_env=, or set captioner_key_env=null for a server without keys"
        )
    address = urlsplit(config.captioner or "")
    if address.scheme != "https" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise InputError(
            f"captioner={config.captioner}: the key in {name} would travel unencrypted; use https, or captioner_key_env=null"
        )
    return key


class FunctionCaptioner:
    """A function that takes a list of paths and returns a list with the caption, the captions or None for each.

    Args:
        name: `module:function`; the module is looked for in the current folder too.
        batch_size: Most paths in a call.

    Raises:
        InputError: If the function cannot be imported.
    """

    calls_at_a_time = 1

    def __init__(self, name: str, batch_size: int) -> None:
        self._name = name
        self.paths_per_call = batch_size
        module, _, function = name.partition(":")
        if not re.fullmatch(r"\w+(\.\w+)*", module) or not function.isidentifier():
            raise InputError(f"captioner={name}: give module:function, or a URL")
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            loaded = importlib.import_module(module)
            self._function = getattr(loaded, function)
        except Exception as error:  # the module is the user's, and may raise anything
            raise InputError(f"captioner={name}: cannot be imported: {one_line(error)}") from None
        if not callable(self._function):
            raise InputError(f"captioner={name}: {function} is not a function")
        file = getattr(loaded, "__file__", None)
        content = Path(file).read_bytes() if file and Path(file).is_file() else b""
        self.key = _digest([name, hashlib.sha256(content).hexdigest()])

    def ask(self, paths: Sequence[Path], stopped: Callable[[], bool]) -> list[Answer]:
        """Call the function; if it fails for several files, then for each of them."""
        try:
            returned = self._function(list(paths))
        except Exception as error:
            if len(paths) == 1:
                return [Answer(problem=f"{type(error).__name__}: {one_line(error)}")]
            return [answer for path in paths if not stopped() for answer in self.ask([path], stopped)]
        if not isinstance(returned, list | tuple) or len(returned) != len(paths):
            got = f"{len(returned)} results" if isinstance(returned, list | tuple) else type(returned).__name__
            raise InputError(
                f"captioner={self._name}: returned {got} for {len(paths)} paths; return a list, one for each"
            )
        return [self._answer(item) for item in returned]

    def _answer(self, item: Any) -> Answer:
        texts = [item] if isinstance(item, str) else [] if item is None else item
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"captioner={self._name}: returned {type(item).__name__} for a track; return text or None")
        captions = clean_captions(texts)
        return Answer(captions) if captions else Answer(problem="it returned no caption")


_ATTEMPTS = 5
_TIMEOUT_S, _CONNECT_S = 300.0, 10.0
_LONGEST_WAIT_S = 60.0
_RATE_HZ = 24000
"""Rate of the sound that is sent: at least that of the models that listen today."""
_BUSY = {408, 409, 425, 429}
"""Statuses, besides those from 500 on, after which the same request is sent again."""
_UNFIT = {400, 413, 415, 422}
"""Statuses that concern one request, and not all of them."""
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


class EndpointCaptioner:
    """A chat endpoint that takes audio; each line of its answer is a caption.

    Args:
        url: Address of the API, such as `https://…/v1`, or of its `chat/completions`.
        model: Name of the model.
        prompt: What it is asked about each track.
        api_key: The key; None sends none.
        heard_s: Seconds in the middle of a track that are sent; None sends all.
        calls_at_a_time: Most requests at a time.
        wait_s: Pause before the second attempt; it doubles with each further one.

    Raises:
        InputError: If the address cannot be used.
    """

    paths_per_call = 1

    def __init__(
        self, url: str, *, model: str, prompt: str, api_key: str | None, heard_s: float | None, calls_at_a_time: int,
        wait_s: float = 1.0,
    ) -> None:  # fmt: skip
        import httpx2

        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InputError(f"captioner={url}: give an address that begins with http:// or https://")
        if address.username is not None or address.password is not None or address.query:
            raise InputError(
                "captioner=: leave user, password and query out of the address, which the dataset card shows"
            )
        self._url = url if url.rstrip("/").endswith("/chat/completions") else f"{url.rstrip('/')}/chat/completions"
        self._model, self._prompt, self._api_key = model, prompt, api_key
        self._heard_s, self._wait_s = heard_s, wait_s
        self.calls_at_a_time = calls_at_a_time
        self.key = _digest([self._url, model, prompt, heard_s])
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx2.Client(headers=headers, timeout=httpx2.Timeout(_TIMEOUT_S, connect=_CONNECT_S))

    def ask(self, paths: Sequence[Path], stopped: Callable[[], bool]) -> list[Answer]:
        """Send a file, again after errors that pass."""
        answers = []
        for path in paths:
            try:
                request = self._request(path)
            except InputError as error:
                answers.append(Answer(problem=one_line(error)))
            else:
                answers.append(self._ask(request, stopped))
        return answers

    def _request(self, path: Path) -> dict[str, Any]:
        sound = {"data": base64.b64encode(wav_bytes(path, self._heard_s)).decode(), "format": "wav"}
        content = [{"type": "text", "text": self._prompt}, {"type": "input_audio", "input_audio": sound}]
        return {"model": self._model, "messages": [{"role": "user", "content": content}]}

    def _ask(self, request: dict[str, Any], stopped: Callable[[], bool]) -> Answer:
        import httpx2

        problem = ""
        for attempt in range(_ATTEMPTS):
            wait_s = self._wait_s * 2**attempt
            try:
                response = self._client.post(self._url, json=request)
            except httpx2.TimeoutException:
                problem = f"no answer within {_TIMEOUT_S:g} s"
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                problem = f"cannot be reached: {one_line(error)}"
            else:
                if response.status_code == 200:
                    answer = _read_answer(response.content)
                    if answer.captions:
                        return answer
                    problem = answer.problem
                else:
                    problem = self._explain(response.status_code, response.content)
                    if response.status_code in _UNFIT:
                        return Answer(problem=problem)
                    if response.status_code < 500 and response.status_code not in _BUSY:
                        raise InputError(f"captioner={self._url}: {problem}; check the address, the model and the key")
                    wait_s = _wait_of(response.headers.get("Retry-After"), wait_s)
            if attempt + 1 < _ATTEMPTS:
                _sleep(wait_s, stopped)
            if stopped():
                break
        return Answer(problem=problem)

    def _explain(self, status: int, content: bytes) -> str:
        """Return status and message of an error, without the key, which some servers repeat."""
        try:
            error = json.loads(content)
            error = error.get("error", error) if isinstance(error, dict) else error
            message = error.get("message", "") if isinstance(error, dict) else error
        except ValueError:
            message = content[:1000].decode(errors="replace")
        text = " ".join(str(message).split())
        if self._api_key:
            text = text.replace(self._api_key, "…")
        return f"status {status}: {text[:200]}" if text else f"status {status}"


def wav_bytes(path: Path, longest_s: float | None) -> bytes:
    """Return the middle of an audio file as a WAV file: 16 bits, mono, 24 kHz.

    Args:
        path: The file.
        longest_s: Its length in seconds; None takes all.

    Raises:
        InputError: If the file cannot be decoded.
    """
    import soundfile

    decoded = decode_audio(path, Path(tempfile.gettempdir()))
    samples, spare = decoded.samples, 0
    if longest_s is not None:
        spare = max(0, samples.length - round(longest_s * decoded.rate_hz))
    middle = samples.read(spare // 2, samples.length - (spare - spare // 2))
    wav = middle.mean(axis=0, keepdims=True)  # (1, samples)
    mono = resample(wav, decoded.rate_hz, _RATE_HZ)[0]
    sink = io.BytesIO()
    soundfile.write(sink, np.clip(mono, -1, 1), _RATE_HZ, format="WAV", subtype="PCM_16")
    return sink.getvalue()


def _read_answer(content: bytes) -> Answer:
    """Return the captions in a response: one on each line, without quotation marks and marks of a list."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
        if isinstance(text, list):  # parts, of which some are text
            text = "\n".join(part.get("text") or "" for part in text)
        lines = str(text or "").splitlines()
    except (ValueError, LookupError, TypeError, AttributeError):
        return Answer(problem="the answer is not a chat completion")
    captions = clean_captions(_LIST_MARK.sub("", line).strip().strip('"“”') for line in lines)
    return Answer(captions) if captions else Answer(problem="the answer is empty")


def _wait_of(retry_after: str | None, otherwise_s: float) -> float:
    """Return the seconds that a server asks to wait, at most a minute."""
    try:
        return min(max(float(retry_after or ""), 0.0), _LONGEST_WAIT_S)
    except ValueError:
        return otherwise_s


def _sleep(duration_s: float, stopped: Callable[[], bool]) -> None:
    end = time.monotonic() + duration_s
    while not stopped() and (left_s := end - time.monotonic()) > 0:
        time.sleep(min(left_s, 0.2))


def _digest(deciding: list[Any]) -> str:
    return hashlib.sha256(json.dumps(deciding).encode()).hexdigest()[:16]
