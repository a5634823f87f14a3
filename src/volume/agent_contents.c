/* SPDX-License-Identifier: MIT */
/*
 * The calls of volume/contents.h as requests to an agent.
 *
 * A call whose link breaks is made once more, over the link to a new agent:
 * all of them say what they mean by path and identity.  Only a listing under
 * way cannot be taken up again.
 */
#include "agent/inspect.h"
#include "base/fd.h"
#include "volume/agent.h"
#include "volume/agent_link.h"

#include <endian.h>
#include <string.h>
#include <time.h>

/* Records that are asked for at once. */
#define LIST_BYTES ((size_t)128 * 1024)
#define WALK_BYTES ((size_t)512 * 1024)
/* Bytes that came with an open file may be given out for so long: no longer than
 * the kernel may trust attributes. */
#define WHOLE_MS 500
/* Files that are asked for at once. */
#define MANY 128

struct agent_contents {
    struct contents head;
    struct agent_volume *volume;
};

struct agent_dir {
    struct contents_dir head;
    struct agent_volume *volume;
    struct agent_link *link; /* entered */
    uint32_t handle;         /* 0: there are no more records than those in first */
    struct buf first;
    bool first_given;
};

/* A regular file: by descriptor, or by a handle of the agent's, or all of it. */
struct agent_file {
    struct contents_file head;
    struct agent_volume *volume;
    char *path;
    uint64_t dev, id;
    bool is_fixed; /* whole is what it stays */
    bool has_whole;
    struct buf whole;
    int64_t opened_ms;
    int fd;

    pthread_mutex_t lock; /* of what follows */
    struct agent_link *link;
    uint32_t handle;
};

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static struct agent_volume *volume_of(const struct contents *contents)
{
    return ((const struct agent_contents *)contents)->volume;
}

/* ---- one request --------------------------------------------------------------------- */

/* Over whichever link there is: 0 with *ret_reply, whose result is no error; what
 * the agent says; or that it cannot be had. */
static int ask(struct agent_volume *volume, const struct agent_request *request,
               struct cancel *cancel, struct agent_reply *ret_reply, struct fail *why)
{
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    int r = -ENOTCONN;
    for (int tries = 0; tries < 2 && r == -ENOTCONN; tries++) {
        struct agent_link *link;
        r = agent_volume_enter(volume, cancel, &link, why);
        if (r < 0)
            return r;
        r = agent_link_call(link, request, cancel, &reply);
        agent_volume_leave(volume, link);
    }
    if (r < 0)
        return fail_set(why, r == -ENOTCONN ? EIO : -r, "the agent is gone");
    if (reply.result < 0)
        return reply.result;
    *ret_reply = reply;
    reply = (struct agent_reply)AGENT_REPLY_INIT;
    return 0;
}

static int agent_stat(struct contents *contents, const char *path, unsigned flags,
                      struct cancel *cancel, struct buf *ret_record)
{
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    int r = ask(volume_of(contents),
                &(struct agent_request){.type = AGENT_STAT, .path = path, .flags = flags}, cancel,
                &reply, NULL);
    return r < 0 ? r : buf_add(ret_record, reply.payload.data, reply.payload.len);
}

/* ---- listings ---------------------------------------------------------------------------- */

static void dir_free(struct agent_dir *dir)
{
    if (dir->link && dir->handle)
        agent_link_close_handle(dir->link, dir->handle);
    if (dir->link)
        agent_volume_leave(dir->volume, dir->link);
    buf_done(&dir->first);
    free(dir);
}
DEFINE_CLEANUP(cleanup_dir_impl, struct agent_dir, dir_free)

/* Begins a listing or a walk. */
static int begin_records(struct agent_volume *volume, const struct agent_request *request,
                         struct cancel *cancel, struct agent_dir **ret_dir, struct fail *why,
                         struct agent_reply *ret_failed)
{
    struct agent_dir *dir cleanup(cleanup_dir_impl) = calloc(1, sizeof(*dir));
    if (!dir)
        return -ENOMEM;
    dir->volume = volume;
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    int r = agent_volume_enter(volume, cancel, &dir->link, why);
    if (r == 0)
        r = agent_link_call(dir->link, request, cancel, &reply);
    if (r < 0)
        return r;
    if (reply.result < 0) {
        r = reply.result;
        *ret_failed = reply;
        reply = (struct agent_reply)AGENT_REPLY_INIT;
        return r;
    }
    dir->handle = reply.flags & AGENT_END ? 0 : (uint32_t)reply.result;
    dir->first = reply.payload;
    reply = (struct agent_reply)AGENT_REPLY_INIT;
    *ret_dir = take(dir);
    return 0;
}

static int next_records(struct agent_dir *dir, size_t bytes, struct cancel *cancel,
                        struct agent_reply *ret_reply)
{
    int r = agent_link_call(dir->link,
                            &(struct agent_request){.type = AGENT_NEXT,
                                                    .handle = dir->handle,
                                                    .bytes = (uint32_t)bytes},
                            cancel, ret_reply);
    if (r < 0)
        return r == -ENOTCONN ? -EIO : r;
    if (ret_reply->result < 0 || ret_reply->flags & AGENT_END)
        dir->handle = 0;
    return ret_reply->result < 0 ? ret_reply->result : 0;
}

static int agent_dir_open(struct contents *contents, const char *path, struct cancel *cancel,
                          struct contents_dir **ret_dir)
{
    struct agent_request request = {.type = AGENT_LIST, .path = path, .bytes = LIST_BYTES};
    struct agent_reply failed cleanup_agent_reply = AGENT_REPLY_INIT;
    struct agent_dir *dir;
    int r = begin_records(volume_of(contents), &request, cancel, &dir, NULL, &failed);
    if (r == -ENOTCONN) /* once more, with a new agent */
        r = begin_records(volume_of(contents), &request, cancel, &dir, NULL, &failed);
    if (r < 0)
        return r == -ENOTCONN ? -EIO : r;
    if (dir->handle == 0) /* all is here: the agent is not needed any longer */
        agent_volume_leave(dir->volume, take(dir->link));
    *ret_dir = &dir->head;
    return 0;
}

static int agent_dir_next(struct contents_dir *head, size_t max_bytes, struct cancel *cancel,
                          struct buf *ret_records)
{
    (void)max_bytes;
    struct agent_dir *dir = (struct agent_dir *)head;
    if (!dir->first_given) {
        dir->first_given = true;
        int r = buf_add(ret_records, dir->first.data, dir->first.len);
        buf_done(&dir->first);
        return r < 0 ? r : 1;
    }
    if (dir->handle == 0)
        return 0;
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    int r = next_records(dir, LIST_BYTES, cancel, &reply);
    if (r == 0)
        r = buf_add(ret_records, reply.payload.data, reply.payload.len);
    return r < 0 ? r : 1;
}

static void agent_dir_close(struct contents_dir *head)
{
    dir_free((struct agent_dir *)head);
}

static int hand_on(const struct buf *records, contents_fn *fn, void *data)
{
    size_t position = 0;
    struct file file;
    int r;
    while ((r = file_read(buf_string(records), records->len, &position, &file)) > 0) {
        r = fn(data, &file);
        if (r < 0)
            return r;
    }
    return r;
}

static int walk_failed(const struct agent_reply *reply, int r, struct fail *why)
{
    if (reply->result < 0)
        return fail_errno(why, -r, "listing %s", buf_string(&reply->payload));
    return fail_errno(why, -r, "listing");
}

static int agent_walk(struct contents *contents, struct cancel *cancel, contents_fn *fn, void *data,
                      struct fail *why)
{
    struct agent_request request = {.type = AGENT_WALK,
                                    .flags = INSPECT_XATTRS | INSPECT_EXTENTS,
                                    .bytes = WALK_BYTES};
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    struct agent_dir *dir cleanup(cleanup_dir_impl) = NULL;
    int r = begin_records(volume_of(contents), &request, cancel, &dir, why, &reply);
    if (r < 0)
        return walk_failed(&reply, r, why);
    r = hand_on(&dir->first, fn, data);
    while (r == 0 && dir->handle) {
        agent_reply_done(&reply);
        r = next_records(dir, WALK_BYTES, cancel, &reply);
        if (r < 0)
            return walk_failed(&reply, r, why);
        r = hand_on(&reply.payload, fn, data);
    }
    return r;
}

/* ---- files --------------------------------------------------------------------------------- */

static void file_free(struct agent_file *file)
{
    if (file->link && file->handle)
        agent_link_close_handle(file->link, file->handle);
    agent_link_unref(file->link);
    cleanup_close_impl(&file->fd);
    buf_done(&file->whole);
    (void)pthread_mutex_destroy(&file->lock);
    free(file->path);
    free(file);
}
DEFINE_CLEANUP(cleanup_file_impl, struct agent_file, file_free)

static struct agent_file *file_new(struct agent_volume *volume, const char *path, uint64_t dev,
                                   uint64_t id)
{
    struct agent_file *file = calloc(1, sizeof(*file));
    if (!file)
        return NULL;
    (void)pthread_mutex_init(&file->lock, NULL);
    buf_init(&file->whole, 0);
    file->volume = volume;
    file->path = strdup(path);
    file->dev = dev;
    file->id = id;
    file->fd = -1;
    if (!file->path) {
        file_free(file);
        return NULL;
    }
    return file;
}

static struct agent_request open_request(const struct agent_file *file, size_t whole_bytes,
                                         bool wants_fd)
{
    return (struct agent_request){.type = AGENT_OPEN,
                                  .path = file->path,
                                  .dev = file->dev,
                                  .identity = file->id,
                                  .flags = wants_fd ? AGENT_WANT_FD : 0,
                                  .bytes = (uint32_t)whole_bytes};
}

/* What a sound reply to OPEN has brought becomes the file's. */
static void take_opened(struct agent_file *file, struct agent_link *link, struct agent_reply *reply)
{
    file->opened_ms = now_ms();
    file->fd = take_fd(&reply->fd);
    file->has_whole = reply->flags & AGENT_WHOLE;
    if (file->has_whole) {
        file->whole = reply->payload;
        buf_init(&reply->payload, 0);
    } else if (file->fd < 0) {
        file->link = agent_link_ref(link);
        file->handle = (uint32_t)reply->result;
    }
}

/*
 * Opens the file where it is.  In bytes, a small file comes at once: a second
 * round trip would cost more.
 */
static int open_now(struct agent_file *file, size_t whole_bytes, struct cancel *cancel)
{
    int r = -ENOTCONN;
    for (int tries = 0; tries < 2 && r == -ENOTCONN; tries++) {
        struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
        struct agent_link *link;
        r = agent_volume_enter(file->volume, cancel, &link, NULL);
        if (r < 0)
            return r;
        bool is_socket = agent_link_is_socket(link);
        struct agent_request request =
            open_request(file, is_socket ? 0 : whole_bytes, is_socket);
        r = agent_link_call(link, &request, cancel, &reply);
        if (r == 0 && reply.result < 0)
            r = reply.result;
        if (r == 0)
            take_opened(file, link, &reply);
        agent_volume_leave(file->volume, link);
    }
    return r == -ENOTCONN ? -EIO : r;
}

static int agent_file_open(struct contents *contents, const char *path, uint64_t dev, uint64_t id,
                           struct cancel *cancel, struct contents_file **ret_file)
{
    struct agent_file *file cleanup(cleanup_file_impl) =
        file_new(volume_of(contents), path, dev, id);
    if (!file)
        return -ENOMEM;
    int r = open_now(file, CONTENTS_SMALL_BYTES, cancel);
    if (r < 0)
        return r;
    *ret_file = &take(file)->head;
    return 0;
}

/* The link over which the file has a handle, entered, and the handle; opens it
 * again where its agent is not that of now. */
static int enter_handle(struct agent_file *file, struct cancel *cancel,
                        struct agent_link **ret_link, uint32_t *ret_handle)
{
    struct agent_link *link;
    int r = agent_volume_enter(file->volume, cancel, &link, NULL);
    if (r < 0)
        return r;
    scoped_lock(&file->lock);
    if (file->link != link) {
        struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
        struct agent_request request = open_request(file, 0, false);
        r = agent_link_call(link, &request, cancel, &reply);
        if (r == 0 && reply.result <= 0)
            r = reply.result < 0 ? reply.result : -EIO;
        if (r < 0) {
            agent_volume_leave(file->volume, link);
            return r;
        }
        agent_link_unref(file->link);
        file->link = agent_link_ref(link);
        file->handle = (uint32_t)reply.result;
    }
    *ret_link = link;
    *ret_handle = file->handle;
    return 0;
}

/* A request about the open file, over a new agent where the old one went. */
static int ask_of_file(struct agent_file *file, struct agent_request *request,
                       struct cancel *cancel, struct agent_reply *ret_reply)
{
    int r = -ENOTCONN;
    for (int tries = 0; tries < 2 && r == -ENOTCONN; tries++) {
        struct agent_link *link;
        r = enter_handle(file, cancel, &link, &request->handle);
        if (r == -ENOTCONN)
            continue;
        if (r < 0)
            return r;
        r = agent_link_call(link, request, cancel, ret_reply);
        agent_volume_leave(file->volume, link);
    }
    if (r < 0)
        return r == -ENOTCONN ? -EIO : r;
    return ret_reply->result < 0 ? ret_reply->result : 0;
}

static ssize_t read_whole(const struct agent_file *file, void *data, size_t len, uint64_t offset)
{
    if (offset >= file->whole.len)
        return 0;
    if (len > file->whole.len - offset)
        len = file->whole.len - (size_t)offset;
    memcpy(data, file->whole.data + offset, len);
    return (ssize_t)len;
}

static ssize_t read_by_handle(struct agent_file *file, char *data, size_t len, uint64_t offset,
                              struct cancel *cancel)
{
    size_t done = 0;
    while (done < len) {
        size_t part = len - done < AGENT_MAX_BYTES ? len - done : AGENT_MAX_BYTES;
        struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
        struct agent_request request = {
            .type = AGENT_READ, .offset = offset + done, .bytes = (uint32_t)part};
        int r = ask_of_file(file, &request, cancel, &reply);
        if (r < 0)
            return r;
        if (reply.payload.len > part)
            return -EIO;
        if (reply.payload.len)
            memcpy(data + done, reply.payload.data, reply.payload.len);
        done += reply.payload.len;
        if (reply.payload.len < part)
            break;
    }
    return (ssize_t)done;
}

static bool whole_counts(const struct agent_file *file)
{
    return file->has_whole && (file->is_fixed || now_ms() - file->opened_ms < WHOLE_MS);
}

static ssize_t agent_file_read(struct contents_file *head, void *data, size_t len, uint64_t offset,
                               struct cancel *cancel)
{
    struct agent_file *file = (struct agent_file *)head;
    if (whole_counts(file))
        return read_whole(file, data, len, offset);
    if (file->fd >= 0)
        return fd_pread_full(file->fd, data, len, offset);
    return read_by_handle(file, data, len, offset, cancel);
}

static int64_t agent_file_seek(struct contents_file *head, uint64_t offset, int whence,
                               struct cancel *cancel)
{
    struct agent_file *file = (struct agent_file *)head;
    if (file->fd >= 0) {
        off_t at = lseek(file->fd, (off_t)offset, whence);
        return at < 0 ? -errno : at;
    }
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    struct agent_request request = {
        .type = AGENT_SEEK, .offset = offset, .whence = (uint32_t)whence};
    int r = ask_of_file(file, &request, cancel, &reply);
    uint64_t at;
    if (r == 0 && reply.payload.len != sizeof(at))
        r = -EIO;
    if (r < 0)
        return r;
    memcpy(&at, reply.payload.data, sizeof(at));
    return (int64_t)le64toh(at);
}

static void agent_file_close(struct contents_file *head)
{
    file_free((struct agent_file *)head);
}

/* ---- many files ------------------------------------------------------------------------------- */

static void settle_want(struct agent_link *link, struct agent_call *call, struct agent_file *file,
                        struct contents_want *want)
{
    want->result = call->error ? call->error : call->reply.result < 0 ? call->reply.result : 0;
    if (want->result == 0) {
        take_opened(file, link, &call->reply);
        file->is_fixed = file->has_whole;
        want->file = &file->head;
    } else {
        file_free(file);
    }
    if (call->error == 0)
        agent_reply_done(&call->reply);
}

static void open_some(struct agent_volume *volume, struct agent_link *link,
                      struct contents_want *wants, size_t count, struct cancel *cancel)
{
    struct agent_call calls[MANY];
    struct agent_file *files[MANY];
    size_t asked = 0;
    for (; asked < count; asked++) {
        files[asked] = file_new(volume, wants[asked].path, wants[asked].dev, wants[asked].id);
        if (!files[asked])
            break;
        calls[asked].request =
            open_request(files[asked], CONTENTS_SMALL_BYTES, agent_link_is_socket(link));
    }
    agent_link_call_many(link, calls, asked, cancel);
    for (size_t i = 0; i < asked; i++)
        settle_want(link, &calls[i], files[i], &wants[i]);
    for (size_t i = asked; i < count; i++)
        wants[i].result = -ENOMEM;
}

static void agent_open_many(struct contents *contents, struct contents_want *wants, size_t count,
                            struct cancel *cancel)
{
    struct agent_volume *volume = volume_of(contents);
    struct agent_link *link;
    int r = agent_volume_enter(volume, cancel, &link, NULL);
    for (size_t i = 0; r < 0 && i < count; i++)
        wants[i].result = r;
    if (r < 0)
        return;
    for (size_t i = 0; i < count; i += MANY)
        open_some(volume, link, wants + i, count - i < MANY ? count - i : MANY, cancel);
    agent_volume_leave(volume, link);
}

/* ---- life ------------------------------------------------------------------------------------- */

static void agent_free(struct contents *contents)
{
    agent_volume_unref(volume_of(contents));
    free(contents);
}

static const struct contents_ops agent_ops = {
    .stat = agent_stat,
    .dir_open = agent_dir_open,
    .dir_next = agent_dir_next,
    .dir_close = agent_dir_close,
    .walk = agent_walk,
    .open = agent_file_open,
    .read = agent_file_read,
    .seek = agent_file_seek,
    .close = agent_file_close,
    .open_many = agent_open_many,
    .free = agent_free,
    .way = "agent",
};

int agent_contents_new(struct agent_volume *volume, struct contents **ret_contents)
{
    struct agent_contents *contents = calloc(1, sizeof(*contents));
    if (!contents) {
        agent_volume_unref(volume);
        return -ENOMEM;
    }
    contents->head.ops = &agent_ops;
    contents->head.refs = 1;
    contents->volume = volume;
    *ret_contents = &contents->head;
    return 0;
}
