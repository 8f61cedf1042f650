"""Jobs of every kind, drawn at random: what a document must be able to hold."""

from hypothesis import strategies as st

from pipelines.request import (
    CONTENT_TYPES,
    Face,
    FramesRequest,
    FramesResult,
    GenerationRequest,
    LoraChoice,
    RejectedFrame,
    StoredFile,
    StoredFrame,
    StoredSample,
    TrainingQuality,
    TrainingRequest,
    TrainingResult,
    TrainingSource,
)
from serving.jobs.job import PRIORITY_RANK, TRANSITIONS, Attempt, Job, JobError, JobResult, StoredImage

LARGEST_SEED = 2**63 - 1
seeds = st.one_of(st.integers(0, LARGEST_SEED), st.just(LARGEST_SEED))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
finite = st.floats(0, 4e9, allow_nan=False)
whole = st.integers(0, 2**31)
files = st.builds(StoredFile, key=texts, sha256=texts)
requests = st.builds(
    GenerationRequest,
    model_id=texts,
    prompt=texts,
    negative_prompt=texts,
    width_px=whole,
    height_px=whole,
    num_images=whole,
    seed=seeds,
    num_inference_steps=whole,
    guidance_scale=finite,
    scheduler=st.none() | texts,
    loras=st.lists(st.builds(LoraChoice, name=texts, scale=finite, file=st.none() | files), max_size=2).map(tuple),
    image=st.none() | files,
    mask=st.none() | files,
    strength=finite,
    num_partial_images=st.integers(0, 3),
    output_format=st.sampled_from(sorted(CONTENT_TYPES)),
    output_compression=st.integers(0, 100),
)
frames_requests = st.builds(
    FramesRequest,
    upload_id=texts,
    video=files,
    duration_s=finite,
    max_frames=whole,
    min_sharpness=st.none() | finite,
    faces=st.sampled_from(["any", "prefer", "require"]),
    dedupe=st.booleans(),
    output_format=st.sampled_from(sorted(CONTENT_TYPES)),
)
training_requests = st.builds(
    TrainingRequest,
    name=texts,
    base_model=texts,
    trigger=texts,
    caption=st.sampled_from(["template", "model", "none"]),
    recipe=texts,
    recipe_json=texts,
    steps=whole,
    rank=whole,
    resolution_px=whole,
    seed=seeds,
    sources=st.lists(
        st.builds(
            TrainingSource, upload_id=texts, kind=st.sampled_from(["video", "image"]), file=files, duration_s=finite
        ),
        max_size=2,
    ).map(tuple),
    dataset=st.none() | texts,
    captions=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
)
looked = st.none() | st.booleans()
stored_images = st.builds(
    StoredImage,
    key=texts,
    content_type=st.sampled_from(sorted(CONTENT_TYPES.values())),
    num_bytes=whole,
    sha256=texts,
    width_px=whole,
    height_px=whole,
    seed=seeds,
    is_nsfw=looked,
)
faces = st.builds(Face, x=whole, y=whole, width=whole, height=whole, score=finite)
stored_frames = st.builds(
    StoredFrame,
    key=texts,
    content_type=st.sampled_from(sorted(CONTENT_TYPES.values())),
    num_bytes=whole,
    sha256=texts,
    width_px=whole,
    height_px=whole,
    time_s=finite,
    scene=whole,
    sharpness=finite,
    brightness=finite,
    coverage=st.none() | texts,
    faces=st.lists(faces, max_size=2).map(tuple),
    nsfw=st.none() | finite,
    is_nsfw=looked,
)
frames_results = st.builds(
    FramesResult,
    frames=st.lists(stored_frames, max_size=2).map(tuple),
    rejected=st.lists(st.builds(RejectedFrame, time_s=finite, reason=texts), max_size=2).map(tuple),
    contact_sheet=texts,
    engine_s=finite,
    waited_s=finite,
    device_s=finite,
)
curves = st.lists(st.tuples(whole, finite), max_size=2).map(tuple)
training_results = st.builds(
    TrainingResult,
    adapter=texts,
    key=texts,
    sha256=texts,
    num_bytes=whole,
    dataset=texts,
    trigger=texts,
    frames_used=whole,
    frames_rejected=st.lists(st.tuples(texts, whole), max_size=2).map(tuple),
    loss=curves,
    validation_loss=curves,
    quality=st.none()
    | st.builds(
        TrainingQuality,
        validation_loss_before=finite,
        validation_loss_after=finite,
        distance_before=st.none() | finite,
        distance_after=st.none() | finite,
        best_step=whole,
        num_held_out=whole,
    ),
    samples=st.lists(
        st.builds(
            StoredSample,
            key=texts,
            content_type=texts,
            num_bytes=whole,
            sha256=texts,
            width_px=whole,
            height_px=whole,
            seed=seeds,
            prompt=texts,
            step=whole,
            is_nsfw=looked,
        ),
        max_size=2,
    ).map(tuple),
    loss_plot=st.none() | texts,
    engine_s=finite,
    waited_s=finite,
    device_s=finite,
)
attempts = st.builds(
    Attempt,
    number=whole,
    started_at=finite,
    ended_at=finite,
    code=texts,
    message=texts,
    backend=st.none() | texts,
)
results = st.builds(JobResult, images=st.lists(stored_images, max_size=2).map(tuple), engine_s=finite, waited_s=finite)
jobs = st.builds(
    Job,
    id=texts,
    tenant=texts,
    kind=st.sampled_from(["image", "video", "text", "lora", "frames"]),
    request=requests | frames_requests | training_requests,
    priority=st.sampled_from(sorted(PRIORITY_RANK)),
    created_at=finite,
    expires_at=finite,
    status=st.sampled_from(sorted(TRANSITIONS)),
    progress=st.integers(0, 100),
    stage=st.none() | texts,
    loss=st.none() | finite,
    told_eta_s=st.none() | finite,
    reached=whole,
    started_at=st.none() | finite,
    finished_at=st.none() | finite,
    attempts=whole,
    lives=whole,
    failures=whole,
    lost_workers=whole,
    history=st.lists(attempts, max_size=3).map(tuple),
    not_before=finite,
    fence=whole,
    owner=st.none() | texts,
    device_s=finite,
    webhook_url=st.none() | texts,
    owed_at=finite,
    wake_at=finite,
    tidy_at=finite,
    backend=st.none() | texts,
    result=st.none() | results | frames_results | training_results,
    moderation=st.sampled_from(["auto", "low"]),
    error=st.none() | st.builds(JobError, code=texts, message=texts),
    metadata=st.dictionaries(texts, texts, max_size=3),
    user=st.none() | texts,
    request_id=texts,
)
