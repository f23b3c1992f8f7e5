"""Generates images from prompts: the sampling loop of training previews, the command line, the app and the evaluation.

    prompt ids (end with <begin_of_image>) -> P codes, one per step -> VQ decoder -> image

The hidden state at <begin_of_image> gives code 0, the one at code i gives code i + 1. The loop ends after P codes; no
token closes an image. With guidance each prompt is read twice, with and without its text, and the logits are
``unconditional + guidance * (conditional - unconditional)``. Prompts with images to edit can be guided by two scales, as in
InstructPix2Pix (section 3.2.1): a third reading has the images without the words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from transformers import JanusForConditionalGeneration, LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from janus_train.infer.decoding import Decoder, StepCallback, check_fits, inference, left_pad
from janus_train.infer.image_inputs import prompt_embeds
from janus_train.model.vq import decode_chunk, decode_codes

ImageProgress = Callable[[int], None]
"""Called with the number of images finished since the last call."""


def tokens_per_image(janus: JanusForConditionalGeneration) -> int:
    """The number of codes P per image: the side of the encoders' grid, squared."""
    vision = janus.config.vision_config
    return (vision.image_size // vision.patch_size) ** 2


def unconditional_prompt(prompt: Sequence[int], pad_id: int) -> list[int]:
    """Returns the prompt without its text: every id between the first and the last becomes pad, which is attended to."""
    return [prompt[0], *[pad_id] * (len(prompt) - 2), prompt[-1]]


def image_only_prompt(prompt: Sequence[int], pad_id: int, image_id: int) -> list[int]:
    """Returns the prompt without its words: the ids between its first and last become pad, those of images stay.

    An image is a run of placeholders, ``image_id``, with one id before and one behind it (begin and end of the image). This is
    what training has where it drops the text of an editing sample (`data.encode`).
    """
    is_image = [id == image_id for id in [0, *prompt, 0]]
    kept = [any(is_image[place : place + 3]) for place in range(len(prompt))]
    kept[0] = kept[-1] = True
    return [id if keep else pad_id for id, keep in zip(prompt, kept, strict=True)]


def uniforms(seeds: Sequence[int], tokens: int) -> torch.Tensor:
    """Returns random numbers (N, P) float64 in [0, 1), which depend on each image's seed but not on batch or device."""
    rows = [torch.rand(tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(rows)


def sample_codes(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> torch.Tensor:
    """Samples one code per row: logits (N, C), uniform (N,) -> (N,) int64, by the inverse of the cumulative distribution.

    In float64: the few ulps by which logits differ between batches of different sizes then choose another code only
    about once in 1e6 samples.
    """
    cumulative = torch.softmax(logits.double() / temperature, dim=-1).cumsum(-1)  # (N, C)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)


def code_filters(top_k: int, top_p: float) -> LogitsProcessorList:
    """Returns what removes unlikely codes, transformers' processors, first top-k, then top-p; empty for 0 and 1.

    Raises:
        ValueError: top_k is below 0, or top_p not above 0 and at most 1.
    """
    if top_k < 0:
        raise ValueError(f"top_k {top_k} must be 0, for all codes, or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p {top_p} must be above 0 and at most 1, for all codes")
    filters = LogitsProcessorList()
    if top_k:
        filters.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        filters.append(TopPLogitsWarper(top_p))
    return filters


def filter_codes(logits: torch.Tensor, temperature: float, filters: LogitsProcessorList) -> torch.Tensor:
    """Divides by the temperature and removes unlikely codes: logits (N, C) -> (N, C) float64, -inf where removed.

    In float64 for the same reason as in `sample_codes`.
    """
    scores = logits.double() / temperature
    no_ids = torch.empty(len(logits), 0, dtype=torch.int64, device=logits.device)  # which these processors do not read
    return filters(no_ids, scores)


def apply_guidance(logits: torch.Tensor, guidance: float) -> torch.Tensor:
    """Applies classifier-free guidance: logits (2N, C), conditional rows first -> (N, C)."""
    conditional, unconditional = logits.chunk(2)
    return unconditional + guidance * (conditional - unconditional)


def apply_two_guidances(logits: torch.Tensor, guidance: float, image_guidance: float) -> torch.Tensor:
    """Applies guidance by words and by images: logits (3N, C), full rows, image-only, unconditional -> (N, C).

    Source: InstructPix2Pix, equation 3; two equal scales are `apply_guidance`.
    """
    conditional, image_only, unconditional = logits.chunk(3)
    return unconditional + image_guidance * (image_only - unconditional) + guidance * (conditional - image_only)


def generate_codes(
    janus: JanusForConditionalGeneration,
    prompts: Sequence[Sequence[int]],
    *,
    pad_id: int,
    guidance: float,
    temperature: float,
    seeds: Sequence[int],
    greedy: bool = False,
    top_k: int = 0,
    top_p: float = 1.0,
    image_features: Sequence[torch.Tensor] = (),
    image_guidance: float | None = None,
    on_step: StepCallback | None = None,
) -> torch.Tensor:
    """Generates codes (N, P) int64 of one image per prompt, in one batch.

    Args:
        prompts: ids of any length that begin with BOS and end with <begin_of_image>.
        guidance: weight of classifier-free guidance; 1 means none, and halves the cost.
        temperature: above 0; logits are divided by it.
        seeds: one per image; the same seed and prompt give the same codes in any batch.
        greedy: take the most likely code each time; seeds, temperature, top_k and top_p then have no effect.
        top_k: sample only among this many of the most likely codes; 0: all.
        top_p: sample only among the most likely codes that together have this probability; 1: all.
        image_features: features of the images in each prompt (`image_inputs.image_features`); empty for prompts without images.
        image_guidance: weight of guidance by the prompts' images, beside which ``guidance`` is that by their words; None:
            ``guidance`` is for both together.
        on_step: called before each code; what it raises ends the loop.

    Raises:
        ValueError: no prompt, a prompt of fewer than two ids, a wrong number of seeds, temperature not above 0, top_k or
            top_p out of its range, image_guidance without images.
        UserError: a prompt and its image are longer than the model's context.
    """
    _check(janus, prompts, seeds, temperature, greedy)
    device = janus.lm_head.weight.device
    if image_guidance is not None and not image_features:
        raise ValueError(f"image_guidance {image_guidance} has no effect on prompts without images")
    rows = [list(p) for p in prompts]
    uses_images = image_guidance is not None and (guidance, image_guidance) != (1.0, 1.0)
    if uses_images:
        rows += [image_only_prompt(p, pad_id, janus.config.image_token_id) for p in prompts]
        image_features = [*image_features, *image_features]
    uses_guidance = uses_images or guidance != 1.0
    if uses_guidance:
        rows += [unconditional_prompt(p, pad_id) for p in prompts]
    ids, mask = (t.to(device) for t in left_pad(rows, pad_id))
    num_codes = tokens_per_image(janus)
    filters = code_filters(top_k, top_p)
    uniform = uniforms(seeds, num_codes).to(device)
    codes = torch.empty(len(prompts), num_codes, dtype=torch.int64, device=device)
    model = janus.model
    with inference(janus):
        decoder = Decoder(janus, room=ids.shape[1] + num_codes)
        hidden = decoder.prefill(prompt_embeds(janus, ids, image_features), mask)  # (N, 2N or 3N, D)
        for i in range(num_codes):
            if on_step is not None:
                on_step()
            logits = model.generation_head(hidden).float()
            if uses_images:
                assert image_guidance is not None
                logits = apply_two_guidances(logits, guidance, image_guidance)  # (N, C)
            elif uses_guidance:
                logits = apply_guidance(logits, guidance)  # (N, C)
            if greedy:
                codes[:, i] = logits.argmax(-1)
            elif filters:
                codes[:, i] = sample_codes(filter_codes(logits, temperature, filters), uniform[:, i], 1.0)
            else:
                codes[:, i] = sample_codes(logits, uniform[:, i], temperature)
            if i + 1 < num_codes:
                # A code has its own embedding and adaptor; the text embedding would take it for a word.
                embeds = model.generation_aligner(model.generation_embeddings(codes[:, i]))
                hidden = decoder.step(embeds.repeat(len(rows) // len(prompts), 1))
    return codes


def _check(
    janus: JanusForConditionalGeneration,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    temperature: float,
    greedy: bool,
) -> None:
    if not prompts or min(len(p) for p in prompts) < 2:
        raise ValueError("a prompt needs at least its first token and <begin_of_image>")
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds: give one seed per image")
    if not greedy and temperature <= 0:
        raise ValueError(f"temperature {temperature} must be above 0 (for the most likely codes: greedy)")
    check_fits(janus, max(map(len, prompts)), tokens_per_image(janus), "of an image")


def generate_images(
    janus: JanusForConditionalGeneration,
    prompts: Sequence[Sequence[int]],
    *,
    pad_id: int,
    guidance: float,
    temperature: float,
    seeds: Sequence[int],
    greedy: bool = False,
    top_k: int = 0,
    top_p: float = 1.0,
    batch_size: int = 64,
    progress: ImageProgress | None = None,
    image_features: Sequence[torch.Tensor] = (),
    image_guidance: float | None = None,
    on_step: StepCallback | None = None,
) -> list[Image.Image]:
    """Generates images in the prompts' order, ``batch_size`` at a time, prompts of similar length together.

    On a CPU an image is bit-identical in any batch: sampling is in float64, and the VQ decoder, whose rounding depends on
    its batch size, decodes one image at a time. On a GPU, where the language model's rounding depends on the batch size
    too, it decodes several (`vq.decode_chunk`).
    """
    _check(janus, prompts, seeds, temperature, greedy)
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    images: dict[int, Image.Image] = {}
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        codes = generate_codes(
            janus,
            [prompts[n] for n in chunk],
            pad_id=pad_id,
            guidance=guidance,
            temperature=temperature,
            seeds=[seeds[n] for n in chunk],
            greedy=greedy,
            top_k=top_k,
            top_p=top_p,
            image_features=[image_features[n] for n in chunk] if image_features else (),
            image_guidance=image_guidance,
            on_step=on_step,
        )
        vqmodel, size = janus.model.vqmodel, 1
        if codes.is_cuda:
            size = decode_chunk(vqmodel, codes.shape[1])
        with inference(janus):
            for begin in range(0, len(chunk), size):
                if on_step is not None:
                    on_step()
                pixels = decode_codes(vqmodel, codes[begin : begin + size]).cpu().numpy()  # (n, S, S, 3) uint8
                images |= {
                    n: Image.fromarray(image) for n, image in zip(chunk[begin : begin + size], pixels, strict=True)
                }
        if progress is not None:
            progress(len(chunk))
    return [images[n] for n in range(len(prompts))]
