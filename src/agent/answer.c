/* SPDX-License-Identifier: MIT */
#include "agent/answer.h"

#include "agent/beneath.h"
#include "base/fd.h"

#include <endian.h>
#include <fcntl.h>

#define OPEN_FLAGS ((uint32_t)(AGENT_WANT_FD | AGENT_ONE_OF_MANY))
#define INSPECT_FLAGS ((uint32_t)(INSPECT_EXTENTS | INSPECT_XATTRS))

/* Each gives the result: 0, a handle, or a negative errno. */
typedef int answer_fn(const struct answers *answers, const struct agent_request *request,
                      struct handle *handle, struct reply *reply);

static int answer_stat(const struct answers *answers, const struct agent_request *request,
                       unused_arg struct handle *handle, struct reply *reply)
{
    if (request->flags & ~INSPECT_FLAGS)
        return -EINVAL;
    return inspect_file(answers->root, request->path, "", request->flags, &reply->payload);
}

/* ---- listings and walks -------------------------------------------------------- */

static int add_some(struct handle *handle, size_t max_bytes, struct reply *reply)
{
    if (!handle->walk)
        return listing_next(handle->listing, handle->flags, max_bytes, &reply->payload);
    int r = walk_next(handle->walk, max_bytes, &reply->payload);
    if (r < 0) {
        buf_clear(&reply->payload);
        if (buf_add_string(&reply->payload, walk_path(handle->walk)) < 0)
            buf_clear(&reply->payload);
    }
    return r;
}

/* As many records as are asked for: 1, or 0 when there are no more. */
static int add_records(struct handle *handle, size_t max_bytes, struct reply *reply)
{
    int r = 1;
    while (r > 0 && reply->payload.len < max_bytes)
        r = add_some(handle, max_bytes - reply->payload.len, reply);
    if (r == 0)
        reply->flags |= AGENT_END;
    return r;
}

static bool asks_for_too_much(const struct agent_request *request)
{
    return request->bytes > AGENT_MAX_BYTES;
}

/* The first records, and a number for the handle if there are more. */
static int begin(const struct answers *answers, const struct agent_request *request,
                 struct handle *handle, struct reply *reply)
{
    int r = add_records(handle, request->bytes, reply);
    return r > 0 ? handles_add(answers->handles, handle) : r;
}

static bool is_no_listing(const struct agent_request *request)
{
    return request->flags & ~INSPECT_FLAGS || !request->bytes || asks_for_too_much(request);
}

static int answer_list(const struct answers *answers, const struct agent_request *request,
                       unused_arg struct handle *none, struct reply *reply)
{
    if (is_no_listing(request))
        return -EINVAL;
    struct handle *handle = handle_new();
    if (!handle)
        return -ENOMEM;
    handle->flags = request->flags;
    int r = listing_open(answers->root, request->path, &handle->listing);
    if (r == 0)
        r = begin(answers, request, handle, reply);
    handles_drop(answers->handles, handle);
    return r;
}

static int answer_walk(const struct answers *answers, const struct agent_request *request,
                       unused_arg struct handle *none, struct reply *reply)
{
    if (is_no_listing(request))
        return -EINVAL;
    struct handle *handle = handle_new();
    if (!handle)
        return -ENOMEM;
    handle->walk = walk_new(answers->root, request->flags);
    int r = handle->walk ? begin(answers, request, handle, reply) : -ENOMEM;
    handles_drop(answers->handles, handle);
    return r;
}

static int answer_next(const struct answers *answers, const struct agent_request *request,
                       struct handle *handle, struct reply *reply)
{
    if (!handle || handle->fd >= 0)
        return -EBADF;
    if (!request->bytes || asks_for_too_much(request))
        return -EINVAL;
    int r = add_records(handle, request->bytes, reply);
    if (r <= 0)
        handles_close(answers->handles, handle);
    return r < 0 ? r : 0;
}

/* ---- files --------------------------------------------------------------------- */

/* Fills the payload from the file.  It may have become shorter. */
static int add_contents(int fd, size_t len, uint64_t offset, struct reply *reply)
{
    char *data = malloc(len + 1);
    if (!data)
        return -ENOMEM;
    ssize_t n = fd_pread_full(fd, data, len, offset);
    if (n < 0) {
        free(data);
        return (int)n;
    }
    data[n] = '\0';
    buf_done(&reply->payload);
    reply->payload.data = data;
    reply->payload.len = (size_t)n;
    reply->payload.room = len + 1;
    return 0;
}

static int add_handle(const struct answers *answers, int *fd)
{
    struct handle *handle = handle_new();
    if (!handle)
        return -ENOMEM;
    handle->fd = take_fd(fd);
    int r = handles_add(answers->handles, handle);
    handles_drop(answers->handles, handle);
    return r;
}

static int answer_open(const struct answers *answers, const struct agent_request *request,
                       unused_arg struct handle *none, struct reply *reply)
{
    if (request->flags & ~OPEN_FLAGS || asks_for_too_much(request))
        return -EINVAL;
    struct file_stat st;
    cleanup_close int fd =
        inspect_open_file(answers->root, request->path, request->dev, request->identity, &st);
    if (fd < 0)
        return fd;
    if (st.size_bytes <= request->bytes) {
        reply->flags |= AGENT_WHOLE;
        return add_contents(fd, (size_t)st.size_bytes, 0, reply);
    }
    if (!(request->flags & AGENT_WANT_FD) || !answers->hands_descriptors)
        return add_handle(answers, &fd);
    reply->flags |= AGENT_DESCRIPTOR;
    reply->fd = take_fd(&fd);
    return 0;
}

static int answer_read(unused_arg const struct answers *answers,
                       const struct agent_request *request, struct handle *handle,
                       struct reply *reply)
{
    if (!handle || handle->fd < 0)
        return -EBADF;
    if (asks_for_too_much(request))
        return -EINVAL;
    return add_contents(handle->fd, request->bytes, request->offset, reply);
}

static int answer_seek(unused_arg const struct answers *answers,
                       const struct agent_request *request, struct handle *handle,
                       struct reply *reply)
{
    if (!handle || handle->fd < 0)
        return -EBADF;
    if (request->whence != SEEK_DATA && request->whence != SEEK_HOLE)
        return -EINVAL;
    off_t at = lseek(handle->fd, (off_t)request->offset, (int)request->whence);
    if (at < 0)
        return -errno;
    uint64_t packed = htole64((uint64_t)at);
    return buf_add(&reply->payload, &packed, sizeof(packed));
}

static int answer_sync(const struct answers *answers,
                       unused_arg const struct agent_request *request,
                       unused_arg struct handle *none, struct reply *reply)
{
    struct file_time moment = inspect_sync(answers->root);
    uint64_t packed[] = {htole64((uint64_t)moment.s), htole64(moment.ns)};
    return buf_add(&reply->payload, packed, sizeof(packed));
}

static int answer_root(const struct answers *answers,
                       unused_arg const struct agent_request *request,
                       unused_arg struct handle *none, struct reply *reply)
{
    /* It is looked at here: of another machine this may take long, and the daemon can give us
     * up. */
    if (!answers->hands_descriptors || !inspect_is_of_this_machine(answers->root))
        return -ENOTSUP;
    reply->fd = openat(answers->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (reply->fd < 0)
        return -errno;
    reply->flags |= AGENT_DESCRIPTOR;
    return 0;
}

void answer(const struct answers *answers, const struct agent_request *request,
            struct handle *handle, struct reply *reply)
{
    static answer_fn *const by_type[] = {
        [AGENT_STAT] = answer_stat, [AGENT_LIST] = answer_list, [AGENT_WALK] = answer_walk,
        [AGENT_NEXT] = answer_next, [AGENT_OPEN] = answer_open, [AGENT_READ] = answer_read,
        [AGENT_SEEK] = answer_seek, [AGENT_SYNC] = answer_sync, [AGENT_ROOT] = answer_root,
    };
    reply->result = by_type[request->type](answers, request, handle, reply);
    if (reply->result >= 0)
        return;
    reply->flags = 0;
    if (request->type != AGENT_WALK && request->type != AGENT_NEXT)
        buf_clear(&reply->payload);
}
