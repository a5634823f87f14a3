/* SPDX-License-Identifier: MIT */
#include "agent/protocol.h"

#include <endian.h>
#include <string.h>

/* The heads as they are laid out.  All numbers little-endian, no padding inside. */
struct frame_head {
    uint32_t bytes, id;
    uint16_t type, flags;
    int32_t result;
};
_Static_assert(sizeof(struct frame_head) == AGENT_FRAME_HEAD_BYTES, "the head has no padding");

struct request_head {
    uint64_t offset, dev, identity;
    uint32_t handle, bytes, flags, whence;
};
_Static_assert(sizeof(struct request_head) == 3 * 8 + 4 * 4, "the head has no padding");

void agent_frame_head(const struct agent_frame *frame, char ret_head[AGENT_FRAME_HEAD_BYTES])
{
    const struct frame_head head = {
        .bytes = htole32((uint32_t)frame->bytes),
        .id = htole32(frame->id),
        .type = htole16(frame->type),
        .flags = htole16(frame->flags),
        .result = (int32_t)htole32((uint32_t)frame->result),
    };
    memcpy(ret_head, &head, sizeof(head));
}

int agent_frame_write(struct buf *out, const struct agent_frame *frame)
{
    char head[AGENT_FRAME_HEAD_BYTES];
    size_t before = out->len;
    if (frame->bytes > UINT32_MAX)
        return -EMSGSIZE;
    agent_frame_head(frame, head);
    int r = buf_add(out, head, sizeof(head));
    if (r == 0 && frame->bytes)
        r = buf_add(out, frame->payload, frame->bytes);
    if (r < 0)
        out->len = before;
    return r;
}

int agent_frame_read(const char *data, size_t len, size_t *position, size_t max_bytes,
                     struct agent_frame *ret_frame)
{
    struct frame_head head;
    size_t left = *position < len ? len - *position : 0;
    if (left < sizeof(head))
        return 0;
    memcpy(&head, data + *position, sizeof(head));
    struct agent_frame frame = {
        .id = le32toh(head.id),
        .type = le16toh(head.type),
        .flags = le16toh(head.flags),
        .result = (int32_t)le32toh((uint32_t)head.result),
        .payload = data + *position + sizeof(head),
        .bytes = le32toh(head.bytes),
    };
    if (frame.bytes > max_bytes || frame.type < AGENT_HELLO || frame.type > AGENT_ROOT)
        return -EBADMSG;
    if (frame.bytes > left - sizeof(head))
        return 0;
    *position += sizeof(head) + frame.bytes;
    *ret_frame = frame;
    return 1;
}

int agent_request_write(struct buf *out, const struct agent_request *request)
{
    const struct request_head head = {
        .offset = htole64(request->offset),
        .dev = htole64(request->dev),
        .identity = htole64(request->identity),
        .handle = htole32(request->handle),
        .bytes = htole32(request->bytes),
        .flags = htole32(request->flags),
        .whence = htole32(request->whence),
    };
    const char *path = request->path ? request->path : "";
    size_t path_bytes = strlen(path) + 1, before = out->len;
    struct agent_frame frame = {
        .id = request->id, .type = request->type, .bytes = sizeof(head) + path_bytes};
    if (frame.bytes > AGENT_MAX_REQUEST_BYTES)
        return -EMSGSIZE;
    char frame_head[AGENT_FRAME_HEAD_BYTES];
    agent_frame_head(&frame, frame_head);
    int r = buf_add(out, frame_head, sizeof(frame_head));
    if (r == 0)
        r = buf_add(out, &head, sizeof(head));
    if (r == 0)
        r = buf_add(out, path, path_bytes);
    if (r < 0)
        out->len = before;
    return r;
}

int agent_request_read(const struct agent_frame *frame, struct agent_request *ret)
{
    struct request_head head;
    if (frame->type < AGENT_STAT || frame->type > AGENT_ROOT || frame->flags || frame->result ||
        frame->bytes <= sizeof(head))
        return -EBADMSG;
    memcpy(&head, frame->payload, sizeof(head));
    const char *path = frame->payload + sizeof(head);
    size_t path_bytes = frame->bytes - sizeof(head);
    if (strnlen(path, path_bytes) != path_bytes - 1)
        return -EBADMSG;
    *ret = (struct agent_request){
        .id = frame->id,
        .type = frame->type,
        .offset = le64toh(head.offset),
        .dev = le64toh(head.dev),
        .identity = le64toh(head.identity),
        .handle = le32toh(head.handle),
        .bytes = le32toh(head.bytes),
        .flags = le32toh(head.flags),
        .whence = le32toh(head.whence),
        .path = path,
    };
    return 0;
}
