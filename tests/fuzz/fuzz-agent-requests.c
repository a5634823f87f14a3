/* SPDX-License-Identifier: MIT */
/* agent/protocol.h as a server reads it: what is taken as a request is written the
 * same again, and what is left is no whole frame. */
#include "fuzz.h"

#include "agent/protocol.h"

static bool is_same(const struct agent_request *a, const struct agent_request *b)
{
    return a->id == b->id && a->type == b->type && a->offset == b->offset && a->dev == b->dev &&
           a->identity == b->identity && a->handle == b->handle && a->bytes == b->bytes &&
           a->flags == b->flags && a->whence == b->whence && strcmp(a->path, b->path) == 0;
}

static void write_again(const struct agent_frame *frame, const struct agent_request *request)
{
    struct buf out cleanup_buf;
    buf_init(&out, AGENT_FRAME_HEAD_BYTES + AGENT_MAX_REQUEST_BYTES);
    require(agent_request_write(&out, request) == 0);
    require(out.len == AGENT_FRAME_HEAD_BYTES + frame->bytes);
    require(memcmp(out.data + AGENT_FRAME_HEAD_BYTES, frame->payload, frame->bytes) == 0);
    struct agent_frame again;
    struct agent_request same;
    size_t position = 0;
    require(agent_frame_read(out.data, out.len, &position, AGENT_MAX_REQUEST_BYTES, &again) == 1);
    require(position == out.len && agent_request_read(&again, &same) == 0);
    require(is_same(request, &same));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t position = 0, before = 0;
    struct agent_frame frame;
    int r;
    while ((r = agent_frame_read((const char *)data, size, &position, AGENT_MAX_REQUEST_BYTES,
                                 &frame)) > 0) {
        struct agent_request request;
        require(position > before && position <= size);
        before = position;
        int is_none = agent_request_read(&frame, &request);
        require(is_none == 0 || is_none == -EBADMSG);
        if (!is_none)
            write_again(&frame, &request);
    }
    require(position == before && (r == 0 || r == -EBADMSG));
    return 0;
}
