"""The tutorial way: ``UploadFile``, a copy by aiofiles, ``BackgroundTasks``, and a JSON file as the record. Syncs nothing.

Started by uvicorn; ``PEER_DIR`` names its folder. With ``PEER_QUEUE=celery`` the tutorial's next step: a Celery task.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import aiofiles
from fastapi import BackgroundTasks, FastAPI, HTTPException, UploadFile
from PIL import Image

FOLDER = Path(os.environ.get("PEER_DIR", "."))
app = FastAPI()


def write(job: dict[str, Any]) -> None:
    """Write the record."""
    (FOLDER / f"{job['id']}.json").write_text(json.dumps(job))


def process(job: dict[str, Any]) -> None:
    """Do what the service's quick pipeline does: hash the file; and make a thumbnail when it is an image."""
    path = FOLDER / job["id"]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1024 * 1024):
            digest.update(piece)
    if job["name"].endswith(".jpg"):
        with Image.open(path) as image:
            image.thumbnail((256, 256))
            image.convert("RGB").save(f"{path}.thumb.webp")
    write({**job, "status": "succeeded", "sha256": digest.hexdigest()})


@app.post("/upload", status_code=202)
async def upload(file: UploadFile, tasks: BackgroundTasks) -> dict[str, Any]:
    """Take a file."""
    job = {"id": uuid.uuid4().hex, "name": file.filename or "", "status": "queued"}
    async with aiofiles.open(FOLDER / job["id"], "wb") as target:
        while piece := await file.read(1024 * 1024):
            await target.write(piece)
    write(job)
    if os.environ.get("PEER_QUEUE") == "celery":
        from bench.peers.tasks import hash_file

        hash_file.delay(job)
    else:
        tasks.add_task(process, job)
    return job


@app.get("/status/{job_id}")
async def status(job_id: str) -> Any:
    """Tell of a job."""
    try:
        async with aiofiles.open(FOLDER / f"{job_id}.json") as file:
            return json.loads(await file.read())
    except FileNotFoundError:
        raise HTTPException(404) from None
