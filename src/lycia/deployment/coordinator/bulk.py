"""The doors through which models and updates pass: in by parts, out by ranges."""

import asyncio
import os
import re
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from lycia.core.messages import Malformed
from lycia.core.tensorfile import ITEM_BYTES
from lycia.deployment import wire
from lycia.deployment.coordinator.mailbox import Mailbox
from lycia.deployment.coordinator.requests import message_of, number_of
from lycia.deployment.coordinator.service import Service
from lycia.deployment.coordinator.sessions import Caller
from lycia.deployment.coordinator.transfers import TooLarge, too_large
from lycia.deployment.wire import INLINE_BYTES, UploadedMessage, UploadMessage
from lycia.errors import AccessError, NotFound
from lycia.storage import parts
from lycia.storage.blobs import BlobFolder
from lycia.storage.carrying import lies_apart, whole_file
from lycia.storage.disk import AS_BYTES
from lycia.storage.spool import upload_id
from lycia.storage.uploads import Upload

_SLACK = 1 << 20  # an update's header and metrics
_LARGEST_MODEL = 1 << 40
_LARGEST_INLINE = 4 * INLINE_BYTES
_PIECE_BYTES = 1 << 20
_SENT_BYTES = 1 << 17
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_JSON = "application/json"


class BulkDoors:
    """Where models and updates pass."""

    def __init__(self, service: Service, blobs: BlobFolder, outgoing: BlobFolder) -> None:
        self._service, self._transfers = service, service.transfers
        self._blobs, self._outgoing = blobs, outgoing

    # ------------------------------------------------------------------------------------------------- updates, coming

    async def announce_update(self, request: Request, caller: Caller) -> Response:
        """Expect an update by parts; says which are here, or why none are wanted."""
        run, task = _place(request)
        upload = _upload(await message_of(request, UploadMessage), run, task, caller.name)
        async with self._transfers.alone(run, task, caller.name):  # an update that is being heard is not replaced
            box = await self._service.expects(caller, run, task)
            if box is not None and upload.size_bytes > (limit := _largest_update(box)):
                return JSONResponse({"upload": upload.id, "refused": await self._refuse(caller, run, task, limit)})
            have = await self._transfers.announce(upload) if box is not None else []
            if box is not None and await box.expects(task, caller.name):
                box.announced(upload.id, upload.size_bytes)
                parallel = self._transfers.parallel()
                return JSONResponse({"upload": upload.id, "refused": "", "have": have, "parallel": parallel})
            if box is not None:  # its task was withdrawn at this moment
                self._transfers.forget([upload.id])
        refused = await self._service.late(caller, run, task)
        have = [] if refused else list(range(len(upload.parts)))  # it was taken before: nothing needs to come again
        return JSONResponse({"upload": upload.id, "refused": refused, "have": have})

    async def update_part(self, request: Request, caller: Caller) -> Response:
        """A part of an update."""
        run, task = _place(request)
        box = await self._service.expects(caller, run, task)
        if box is None:  # it would be for nothing: what is not sent costs nobody anything
            return JSONResponse({"refused": await self._service.late(caller, run, task)})
        arriving = await self._transfers.find(caller.name, request.path_params["id"])
        if (arriving.upload.run, arriving.upload.task) != (run, task):
            raise NotFound(
                "that upload is for another task.",
                why="an upload belongs to the run and the task that it was announced for.",
                do="announce it again for this task.",
            )
        box.bytes_up += int(number_of(request.headers, "content-length", 0))
        return await self._part(request, caller)

    async def update(self, request: Request, caller: Caller) -> Response:
        """An update: in the body, or as an upload of which all parts are here."""
        run, task = _place(request)
        if _is_json(request):
            said = await message_of(request, UploadedMessage)
            async with self._transfers.alone(run, task, caller.name):
                return await self._uploaded(caller, run, task, said)
        box = await self._service.expects(caller, run, task)
        if box is None:
            return JSONResponse({"refused": await self._service.late(caller, run, task)})
        limit = _largest_update(box)
        if number_of(request.headers, "content-length", 0) > limit:
            return JSONResponse({"refused": await self._refuse(caller, run, task, limit)})
        try:
            content = await self._transfers.small(caller.name, request.stream(), min(limit, _LARGEST_INLINE))
        except TooLarge:
            if limit > _LARGEST_INLINE:
                raise
            return JSONResponse({"refused": await self._refuse(caller, run, task, limit)})
        box.bytes_up += len(content)
        handle = upload_id(run, task, caller.name, parts.digest_of_pieces([content]))
        box.hold(handle, content)
        return await self._hand_on(caller, box, task, content, handle)

    async def _uploaded(self, caller: Caller, run: str, task: int, said: UploadedMessage) -> Response:
        box = await self._service.expects(caller, run, task)
        if box is None:
            return JSONResponse({"refused": await self._service.late(caller, run, task)})
        arriving = await self._transfers.find(caller.name, said.upload)
        upload = arriving.upload
        is_whole = (upload.run, upload.task) == (run, task) and len(arriving.have) == len(upload.parts)
        if not is_whole or not await asyncio.to_thread(self._transfers.spool.has, upload.id, upload.size_bytes):
            return JSONResponse({"refused": "", "missing": True})
        content = await asyncio.to_thread(self._transfers.spool.open, upload.id)
        return await self._hand_on(caller, box, task, content, upload.id)

    async def _hand_on(
        self, caller: Caller, box: Mailbox, task: int, content: bytes | memoryview, handle: str
    ) -> Response:
        run = box.run.id
        reply = wire.decode_update(box.run.layout, content, run, task, caller.name, handle)
        refused = await self._service.deliver(caller, run, reply)
        if isinstance(reply, Malformed):
            box.forget([handle])
        return JSONResponse({"refused": refused})

    async def _refuse(self, caller: Caller, run: str, task: int, limit: int) -> str:
        reply = Malformed(task, caller.name, f"its update is larger than {limit} bytes")
        return await self._service.deliver(caller, run, reply)

    async def _part(self, request: Request, caller: Caller) -> Response:
        id, number = request.path_params["id"], request.path_params["number"]
        digest = request.headers.get("x-part-digest", "")
        is_whole = await self._transfers.part(caller.name, id, number, digest, request.stream())
        return JSONResponse({"refused": "", "damaged": not is_whole})

    # -------------------------------------------------------------------------------------------------- models, coming

    async def announce_blob(self, request: Request, caller: Caller) -> Response:
        """Expect a model's file by parts; says which are here."""
        upload = _upload(await message_of(request, UploadMessage), "", -1, caller.name)
        if upload.size_bytes > _LARGEST_MODEL:
            raise too_large(_LARGEST_MODEL)
        whole = range(len(upload.parts))
        is_here = await asyncio.to_thread(self._blobs.has, upload.digest)
        have = list(whole) if is_here else await self._transfers.announce(upload)
        said = {"upload": upload.id, "have": have} | ({"digest": upload.digest} if is_here else {})
        return JSONResponse(said)

    async def blob_part(self, request: Request, caller: Caller) -> Response:
        """A part of a model's file."""
        return await self._part(request, caller)

    async def put_blob(self, request: Request, caller: Caller) -> Response:
        """Keep a model's file: in the body, or as an upload of which all parts are here."""
        if not _is_json(request):
            content = await self._transfers.small(caller.name, request.stream(), INLINE_BYTES)
            return JSONResponse({"digest": await asyncio.to_thread(self._blobs.put, [content])})
        said = await message_of(request, UploadedMessage)
        arriving = await self._transfers.find(caller.name, said.upload)
        upload = arriving.upload
        if not await asyncio.to_thread(self._blobs.has, upload.digest):
            if len(arriving.have) < len(upload.parts):
                return JSONResponse({"missing": True})
            await asyncio.to_thread(self._blobs.adopt, self._transfers.spool.path(upload.id), upload.parts)
        self._transfers.forget([upload.id])
        return JSONResponse({"digest": upload.digest})

    # ----------------------------------------------------------------------------------------------------------- going

    async def blob(self, request: Request, caller: Caller) -> Response:
        """The bytes behind a digest, or a range of them, for those whom an ask or a role gives them."""
        digest = request.path_params["digest"]
        folder = await self._folder(request, caller, digest)
        size = folder.size(digest)
        place, status = _range(request, size)
        headers = {"etag": f'"{digest}"', "cache-control": "private, immutable", "accept-ranges": "bytes"}
        if place is None:
            return Response(status_code=416, headers={**headers, "content-range": f"bytes */{size}"})
        if status == 206:
            headers["content-range"] = f"bytes {place.start}-{place.stop - 1}/{size}"
        box, length = self._service.runs.box(request.query_params.get("run", "")), place.stop - place.start
        self._service.presence.moved(caller.name, down=length)
        if box is not None:
            box.bytes_down += length
        headers["content-length"] = str(length)
        pieces = self._pieces(folder, digest, place, caller)
        return StreamingResponse(pieces, status, headers, media_type="application/octet-stream")

    async def blob_parts(self, request: Request, caller: Caller) -> Response:
        """The digests of a blob's parts, from which its own digest follows."""
        digest = request.path_params["digest"]
        folder = await self._folder(request, caller, digest)
        found = await asyncio.to_thread(folder.parts, digest)
        return JSONResponse({"size_bytes": folder.size(digest), "parts": list(found)})

    async def model(self, request: Request, caller: Caller) -> Response:
        """Under which digest a model's file can be fetched, and how large it is."""
        number = number_of(request.query_params, "round", -1)
        digest = await self._service.runs.model_blob(request.path_params["run"], None if number < 0 else int(number))
        folder = self._blobs
        if await asyncio.to_thread(lies_apart, self._blobs, digest):
            folder = self._outgoing
            digest = await asyncio.to_thread(lambda kept: folder.put(whole_file(self._blobs, kept)), digest)
            self._service.assembled.add(digest)
        return JSONResponse({"digest": digest, "size_bytes": folder.size(digest)})

    async def _folder(self, request: Request, caller: Caller, digest: str) -> BlobFolder:
        if not await self._service.may_read(caller, digest, request.query_params.get("run", "")):
            raise NotFound(
                f"there is nothing under {digest[:12]}… for {caller.name!r}.",
                why="a blob is for those whom an open ask names it to; a digest alone is no key.",
                do="poll again; if the ask was answered or withdrawn meanwhile, the blob is not needed any more.",
            )
        return self._outgoing if self._outgoing.has(digest) else self._blobs

    async def _pieces(self, folder: BlobFolder, digest: str, place: slice, caller: Caller) -> AsyncIterator[memoryview]:
        descriptor = os.open(folder.path(digest), os.O_RDONLY | AS_BYTES)
        try:
            os.lseek(descriptor, place.start, os.SEEK_SET)
            left = place.stop - place.start
            while left:
                piece = await asyncio.to_thread(os.read, descriptor, min(_PIECE_BYTES, left))
                if not piece:
                    return  # the file was cut: whoever reads gets less than was said, and knows it
                left -= len(piece)
                for start in range(0, len(piece), _SENT_BYTES):  # so much stays in the cache while it is encrypted
                    yield memoryview(piece)[start : start + _SENT_BYTES]
                await self._transfers.paced(caller.name, len(piece))
                self._service.presence.heard(caller.name, 0)
        finally:
            os.close(descriptor)


def _place(request: Request) -> tuple[str, int]:
    return request.path_params["run"], request.path_params["task"]


def _upload(said: UploadMessage, run: str, task: int, node: str) -> Upload:
    if len(said.parts) != parts.count(said.size_bytes):
        raise AccessError(
            f"an upload of {said.size_bytes} bytes was announced with {len(said.parts)} parts.",
            why=f"it has {parts.count(said.size_bytes)}, of {parts.PART_BYTES} bytes each but for the last.",
            do="use the same minor version of lycia on both sides.",
        )
    return Upload(run, task, node, said.size_bytes, tuple(said.parts))


def _range(request: Request, size: int) -> tuple[slice | None, int]:
    """Which bytes are wanted, and the status of the answer; None if there are no such bytes."""
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None or not size:
        return slice(0, size), 200
    start, stop = int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)
    return (slice(start, stop), 206) if start < stop else (None, 416)


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip() == _JSON


def _largest_update(box: Mailbox) -> int:
    layout = box.run.layout
    extras = sum(extra.size * ITEM_BYTES[extra.dtype] for extra in box.extras())
    return 8 * layout.size("trained") + extras + _SLACK
