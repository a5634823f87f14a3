/* SPDX-License-Identifier: MIT */
/*
 * The calls of volume/contents.h as requests to an agent, or in place, where the agent has
 * handed its directory over (agent_here.h).
 *
 * A call whose link breaks is made once more, over the link to a new agent:
 * all of them say what they mean by path and identity, and a directory's listing is
 * taken up behind the last name that came.  Only a walk under way fails.
 */
#include "agent/inspect.h"
#include "base/fd.h"
#include "volume/agent.h"
#include "volume/agent_link.h"

#include <endian.h>
#include <string.h>
#include <time.h>

/* Records that are asked for at once: so many as come well within AGENT_SILENCE_MS
 * from a slow disk. */
#define LIST_BYTES ((size_t)128 * 1024)
#define WALK_BYTES ((size_t)128 * 1024)
/* Bytes that came with an open file may be given out for so long: no longer than
 * the kernel may trust attributes. */
#define WHOLE_MS 500
/* Files that are asked for at once. */
#define MANY 128

struct agent_contents {
    struct contents head;
    struct agent_volume *volume;
};

/* A listing or a walk. */
struct agent_dir {
    struct contents_dir head;
    struct agent_volume *volume;
    struct agent_link *link; /* entered; NULL: nothing more is asked for */
    uint32_t handle;         /* 0: there are no more records than those in first */
    struct buf first;
    bool first_given;
    bool is_lost; /* what was asked for never came: it is to be begun anew */
    char *path;   /* of a listing; NULL: a walk */
    char *last;   /* the last name that was given; NULL: none */
};

/* A regular file: by descriptor, or by a handle of the agent's, or all of it. */
struct agent_file {
    struct contents_file head;
    struct agent_volume *volume;
    char *path;
    uint64_t dev, id;
    bool is_fixed; /* `whole` is what counts */
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

/* What the caller is told of a call that failed. */
static int told(int r)
{
    return r == -ENOTCONN || r == -EBADMSG ? -EIO : r;
}

/* Over whichever link there is: 0 with *ret_reply, whose result is no error; what
 * the agent says; or that it cannot be had. */
static int ask(struct agent_volume *volume, const struct agent_request *request,
               struct cancel *cancel, struct agent_reply *ret_reply)
{
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    int r = -ENOTCONN;
    for (int tries = 0; tries < 2 && r == -ENOTCONN; tries++) {
        struct agent_link *link;
        r = agent_volume_enter(volume, cancel, &link, NULL);
        if (r < 0)
            return told(r);
        r = agent_link_call(link, request, cancel, &reply);
        agent_volume_leave(volume, link);
    }
    if (r < 0 || reply.result < 0)
        return r < 0 ? told(r) : reply.result;
    *ret_reply = reply;
    reply = (struct agent_reply)AGENT_REPLY_INIT;
    return 0;
}

/* The volume of a running agent, as this process reads it itself; while it is there the agent
 * is in use. */
struct in_place {
    struct agent_volume *volume;
    struct agent_link *link;
    struct contents *contents; /* NULL: all has to be asked for */
};

static void in_place_done(struct in_place *in_place)
{
    contents_unref(in_place->contents);
    if (in_place->link)
        agent_volume_leave(in_place->volume, in_place->link);
}
#define cleanup_in_place cleanup(in_place_done)

/* 1; 0: all has to be asked for; or why there is no agent. */
static int get_in_place(struct contents *contents, struct cancel *cancel, struct in_place *ret,
                        struct fail *why)
{
    *ret = (struct in_place){.volume = volume_of(contents)};
    int r = agent_volume_enter(ret->volume, cancel, &ret->link, why);
    if (r < 0)
        return told(r);
    ret->contents = agent_volume_here(ret->volume);
    return ret->contents ? 1 : 0;
}

static int agent_stat(struct contents *contents, const char *path, unsigned flags,
                      struct cancel *cancel, struct buf *ret_record)
{
    struct in_place here cleanup_in_place;
    int r = get_in_place(contents, cancel, &here, NULL);
    if (r != 0)
        return r < 0 ? r : contents_stat(here.contents, path, flags, cancel, ret_record);
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    r = ask(volume_of(contents),
            &(struct agent_request){.type = AGENT_STAT, .path = path, .flags = flags}, cancel,
            &reply);
    return r < 0 ? r : buf_add(ret_record, reply.payload.data, reply.payload.len);
}

/* ---- listings ---------------------------------------------------------------------------- */

/* Nothing more is asked for. */
static void leave(struct agent_dir *dir)
{
    if (!dir->link)
        return;
    if (dir->handle)
        agent_link_close_handle(dir->link, dir->handle);
    dir->handle = 0;
    agent_volume_leave(dir->volume, take(dir->link));
}

static void dir_free(struct agent_dir *dir)
{
    leave(dir);
    buf_done(&dir->first);
    free(dir->path);
    free(dir->last);
    free(dir);
}
DEFINE_CLEANUP(cleanup_dir_impl, struct agent_dir, dir_free)

/* Whether a reply to LIST, WALK or NEXT, which is no error, makes sense: what does
 * not end it brings something. */
static bool is_sound(const struct agent_reply *reply, bool is_first)
{
    bool ends = reply->flags & AGENT_END;
    bool has_handle = is_first && !ends;
    return (ends || reply->payload.len) && has_handle == (reply->result > 0);
}

/* The first records, over whichever link there is.  ret_reply: of what the agent
 * says, too, when that is an error. */
static int begin_records(struct agent_dir *dir, const struct agent_request *request,
                         struct cancel *cancel, struct agent_reply *ret_reply, struct fail *why)
{
    int r = -ENOTCONN;
    for (int tries = 0; tries < 2 && r == -ENOTCONN; tries++) {
        leave(dir);
        r = agent_volume_enter(dir->volume, cancel, &dir->link, why);
        if (r < 0)
            return told(r);
        r = agent_link_call(dir->link, request, cancel, ret_reply);
    }
    if (r == 0 && ret_reply->result >= 0 && !is_sound(ret_reply, true))
        r = -EIO;
    if (r < 0 || ret_reply->result < 0)
        return r < 0 ? fail_errno(why, -told(r), "the agent") : ret_reply->result;
    dir->handle = (uint32_t)ret_reply->result;
    dir->first = ret_reply->payload;
    buf_init(&ret_reply->payload, 0);
    if (dir->handle == 0) /* all is here: the agent is not needed any longer */
        leave(dir);
    return 0;
}

static int next_records(struct agent_dir *dir, size_t bytes, struct cancel *cancel,
                        struct agent_reply *ret_reply)
{
    int r =
        agent_link_call(dir->link,
                        &(struct agent_request){
                            .type = AGENT_NEXT, .handle = dir->handle, .bytes = (uint32_t)bytes},
                        cancel, ret_reply);
    if (r < 0)
        return r;
    if (ret_reply->result < 0 || ret_reply->flags & AGENT_END)
        dir->handle = 0;
    if (ret_reply->result < 0)
        return ret_reply->result;
    return is_sound(ret_reply, false) ? 0 : -EIO;
}

static int begin_listing(struct agent_dir *dir, struct cancel *cancel)
{
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    struct agent_request request = {.type = AGENT_LIST, .path = dir->path, .bytes = LIST_BYTES};
    return begin_records(dir, &request, cancel, &reply, NULL);
}

static int agent_dir_open(struct contents *contents, const char *path, struct cancel *cancel,
                          struct contents_dir **ret_dir)
{
    struct in_place here cleanup_in_place;
    int r = get_in_place(contents, cancel, &here, NULL);
    if (r != 0)
        return r < 0 ? r : contents_dir_open(here.contents, path, cancel, ret_dir);
    struct agent_dir *dir cleanup(cleanup_dir_impl) = calloc(1, sizeof(*dir));
    if (!dir || !(dir->path = strdup(path)))
        return -ENOMEM;
    dir->volume = volume_of(contents);
    r = begin_listing(dir, cancel);
    if (r < 0)
        return r;
    *ret_dir = &take(dir)->head;
    return 0;
}

/* Gives those of the records that are behind the last name, and moves that on. */
static int give(struct agent_dir *dir, const struct buf *records, struct buf *ret_records)
{
    const char *data = buf_string(records), *last = NULL;
    size_t position = 0, from = 0;
    struct file file;
    int r;
    while ((r = file_read(data, records->len, &position, &file)) > 0) {
        last = file.name;
        if (dir->last && strcmp(last, dir->last) <= 0)
            from = position;
    }
    if (r < 0)
        return -EIO;
    if (!last || from == records->len)
        return 0;
    char *copy = strdup(last);
    r = copy ? buf_add(ret_records, data + from, records->len - from) : -ENOMEM;
    free(r == 0 ? dir->last : copy);
    if (r == 0)
        dir->last = copy;
    return r;
}

/* Some records, perhaps none of them new; 0: there are no more. */
static int some_records(struct agent_dir *dir, struct cancel *cancel, struct buf *ret_records)
{
    if (!dir->first_given) {
        dir->first_given = true;
        int r = give(dir, &dir->first, ret_records);
        buf_done(&dir->first);
        return r < 0 ? r : 1;
    }
    if (dir->handle == 0)
        return 0;
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    int r = next_records(dir, LIST_BYTES, cancel, &reply);
    if (r == 0)
        r = give(dir, &reply.payload, ret_records);
    return r < 0 ? r : 1;
}

/* Where the answer was not waited for, or went with the agent, there is a hole now. */
static int begin_again(struct agent_dir *dir, struct cancel *cancel)
{
    buf_done(&dir->first);
    dir->first_given = false;
    int r = begin_listing(dir, cancel);
    dir->is_lost = r < 0;
    return r;
}

static int agent_dir_next(struct contents_dir *head, size_t max_bytes, struct cancel *cancel,
                          struct buf *ret_records)
{
    (void)max_bytes;
    struct agent_dir *dir = (struct agent_dir *)head;
    size_t before = ret_records->len;
    bool once_more = true; /* with a new agent */
    int r;
    do {
        r = dir->is_lost ? begin_again(dir, cancel) : 0;
        if (r == 0)
            r = some_records(dir, cancel, ret_records);
        if (r < 0)
            dir->is_lost = true;
        if (r == -ENOTCONN && once_more) {
            once_more = false;
            r = 1;
        }
    } while (r > 0 && ret_records->len == before);
    return told(r);
}

static void agent_dir_close(struct contents_dir *head)
{
    dir_free((struct agent_dir *)head);
}

static int hand_on(const struct buf *records, contents_fn *fn, void *data, struct fail *why)
{
    size_t position = 0;
    struct file file;
    int r;
    while ((r = file_read(buf_string(records), records->len, &position, &file)) > 0) {
        r = fn(data, &file);
        if (r < 0)
            return r;
    }
    return r < 0 ? fail_set(why, EIO, "the agent's listing makes no sense") : 0;
}

/* The agent's own error, with the path at which it came upon it. */
static int walk_failed(const struct agent_reply *reply, struct fail *why)
{
    return fail_errno(why, -reply->result, "listing %s", buf_string(&reply->payload));
}

static int agent_walk(struct contents *contents, struct cancel *cancel, contents_fn *fn, void *data,
                      struct fail *why)
{
    struct in_place here cleanup_in_place;
    int r = get_in_place(contents, cancel, &here, why);
    if (r != 0)
        return r < 0 ? r : contents_walk(here.contents, cancel, fn, data, why);
    struct agent_request request = {
        .type = AGENT_WALK, .flags = INSPECT_XATTRS | INSPECT_EXTENTS, .bytes = WALK_BYTES};
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    struct agent_dir *dir cleanup(cleanup_dir_impl) = calloc(1, sizeof(*dir));
    if (!dir)
        return fail_errno(why, ENOMEM, "listing");
    dir->volume = volume_of(contents);
    r = begin_records(dir, &request, cancel, &reply, why);
    if (r == 0)
        r = hand_on(&dir->first, fn, data, why);
    while (r == 0 && dir->handle) {
        agent_reply_done(&reply);
        reply.result = 0;
        r = next_records(dir, WALK_BYTES, cancel, &reply);
        if (r < 0 && reply.result >= 0)
            return fail_errno(why, -told(r), "listing: the agent");
        if (r == 0)
            r = hand_on(&reply.payload, fn, data, why);
    }
    return reply.result < 0 ? walk_failed(&reply, why) : r;
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

/* Whether a reply to OPEN, which is no error, brings the file in just one form. */
static bool is_open(const struct agent_reply *reply)
{
    bool has_whole = reply->flags & AGENT_WHOLE;
    return has_whole + (reply->fd >= 0) + (reply->result > 0) == 1 &&
           (has_whole || !reply->payload.len);
}

/* What it has brought becomes the file's. */
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

/* The same of any reply: 0, or the error that it is. */
static int take_reply(struct agent_file *file, struct agent_link *link, struct agent_reply *reply)
{
    if (reply->result < 0)
        return reply->result;
    if (!is_open(reply))
        return -EIO;
    take_opened(file, link, reply);
    return 0;
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
        struct agent_request request = open_request(file, is_socket ? 0 : whole_bytes, is_socket);
        r = agent_link_call(link, &request, cancel, &reply);
        if (r == 0)
            r = take_reply(file, link, &reply);
        agent_volume_leave(file->volume, link);
    }
    return told(r);
}

static int agent_file_open(struct contents *contents, const char *path, uint64_t dev, uint64_t id,
                           struct cancel *cancel, struct contents_file **ret_file)
{
    struct in_place here cleanup_in_place;
    int r = get_in_place(contents, cancel, &here, NULL);
    if (r != 0)
        return r < 0 ? r : contents_open(here.contents, path, dev, id, cancel, ret_file);
    struct agent_file *file cleanup(cleanup_file_impl) =
        file_new(volume_of(contents), path, dev, id);
    if (!file)
        return -ENOMEM;
    r = open_now(file, CONTENTS_SMALL_BYTES, cancel);
    if (r < 0)
        return r;
    *ret_file = &take(file)->head;
    return 0;
}

/* The handle over that link, or 0: it has none. */
static uint32_t known_handle(struct agent_file *file, const struct agent_link *link)
{
    scoped_lock(&file->lock);
    return file->link == link ? file->handle : 0;
}

/* A new handle becomes the file's, if no other thread was as quick: that which it
 * has. */
static uint32_t keep_handle(struct agent_file *file, struct agent_link *link, uint32_t handle)
{
    scoped_lock(&file->lock);
    if (file->link == link) {
        agent_link_close_handle(link, handle);
        return file->handle;
    }
    agent_link_unref(file->link);
    file->link = agent_link_ref(link);
    file->handle = handle;
    return handle;
}

/* The file's handle over the link; opens it again where its agent was another.
 * *ret_handle: 0 where the file is empty now. */
static int get_handle(struct agent_file *file, struct agent_link *link, struct cancel *cancel,
                      uint32_t *ret_handle)
{
    *ret_handle = known_handle(file, link);
    if (*ret_handle)
        return 0;
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    struct agent_request request = open_request(file, 0, false);
    int r = agent_link_call(link, &request, cancel, &reply);
    if (r < 0)
        return r;
    if (reply.result < 0) /* of a file that is open, ENOENT would be no answer */
        return reply.result == -ENOENT ? -ESTALE : reply.result;
    if (!is_open(&reply) || reply.fd >= 0)
        return -EIO;
    if (reply.result > 0)
        *ret_handle = keep_handle(file, link, (uint32_t)reply.result);
    return 0;
}

/* A request about the open file: 1 with what the agent says, which is no error, or 0
 * where the file is empty. */
static int ask_of_file(struct agent_file *file, struct agent_request *request,
                       struct cancel *cancel, struct agent_reply *ret_reply)
{
    int r = -ENOTCONN;
    for (int tries = 0; tries < 2 && r == -ENOTCONN; tries++) {
        struct agent_link *link;
        r = agent_volume_enter(file->volume, cancel, &link, NULL);
        if (r < 0)
            return told(r);
        r = get_handle(file, link, cancel, &request->handle);
        if (r == 0 && request->handle) {
            r = agent_link_call(link, request, cancel, ret_reply);
            r = r == 0 ? 1 : r;
        }
        agent_volume_leave(file->volume, link);
    }
    return r > 0 && ret_reply->result < 0 ? ret_reply->result : told(r);
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
    if (r <= 0)
        return r < 0 ? r : -ENXIO;
    if (reply.payload.len != sizeof(at))
        return -EIO;
    memcpy(&at, reply.payload.data, sizeof(at));
    at = le64toh(at);
    return at <= INT64_MAX ? (int64_t)at : -EIO;
}

static void agent_file_close(struct contents_file *head)
{
    file_free((struct agent_file *)head);
}

/* ---- many files --------------------------------------------------------------------- */

static void settle_want(struct agent_link *link, struct agent_call *call, struct agent_file *file,
                        struct contents_want *want)
{
    want->result = call->error ? call->error : take_reply(file, link, &call->reply);
    if (call->error == 0)
        agent_reply_done(&call->reply);
    file->is_fixed = file->has_whole;
    if (want->result == 0)
        want->file = &file->head;
    else
        file_free(file);
}

/* Whether it is still to be asked for. */
static bool is_wanted(const struct contents_want *want)
{
    return want->result == -ENOTCONN;
}

/* Up to MANY of those that are still to be asked for. */
static void open_some(struct agent_volume *volume, struct agent_link *link,
                      struct contents_want *wants, size_t count, struct cancel *cancel)
{
    struct agent_call calls[MANY];
    struct agent_file *files[MANY];
    struct contents_want *asked[MANY];
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        struct contents_want *want = &wants[i];
        if (!is_wanted(want))
            continue;
        files[n] = file_new(volume, want->path, want->dev, want->id);
        if (!files[n]) {
            want->result = -ENOMEM;
            continue;
        }
        calls[n].request = open_request(files[n], CONTENTS_SMALL_BYTES, agent_link_is_socket(link));
        calls[n].request.flags |= AGENT_ONE_OF_MANY;
        asked[n++] = want;
    }
    agent_link_call_many(link, calls, n, cancel);
    for (size_t i = 0; i < n; i++)
        settle_want(link, &calls[i], files[i], asked[i]);
}

/* All that are still to be asked for: whether some are then, for the link broke. */
static bool open_all(struct agent_volume *volume, struct contents_want *wants, size_t count,
                     struct cancel *cancel)
{
    struct agent_link *link;
    bool is_broken = false;
    int r = agent_volume_enter(volume, cancel, &link, NULL);
    for (size_t i = 0; r == 0 && i < count; i += MANY)
        open_some(volume, link, wants + i, count - i < MANY ? count - i : MANY, cancel);
    if (r == 0)
        agent_volume_leave(volume, link);
    for (size_t i = 0; i < count; i++) {
        if (r < 0 && is_wanted(&wants[i]))
            wants[i].result = told(r);
        is_broken = is_broken || is_wanted(&wants[i]);
    }
    return is_broken;
}

static void agent_open_many(struct contents *contents, struct contents_want *wants, size_t count,
                            struct cancel *cancel)
{
    struct in_place here cleanup_in_place;
    int r = get_in_place(contents, cancel, &here, NULL);
    if (r > 0) {
        contents_open_many(here.contents, wants, count, cancel);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        wants[i].file = NULL;
        wants[i].result = r < 0 ? r : -ENOTCONN;
    }
    if (open_all(volume_of(contents), wants, count, cancel)) /* once more, with a new agent */
        (void)open_all(volume_of(contents), wants, count, cancel);
    for (size_t i = 0; i < count; i++)
        wants[i].result = told(wants[i].result);
}

/* ---- the clock ------------------------------------------------------------------------ */

static int agent_sync(struct contents *contents, struct cancel *cancel, int64_t *ret_s,
                      uint32_t *ret_ns)
{
    struct in_place here cleanup_in_place;
    int r = get_in_place(contents, cancel, &here, NULL);
    if (r != 0)
        return r < 0 ? r : contents_sync(here.contents, cancel, ret_s, ret_ns);
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    r = ask(volume_of(contents), &(struct agent_request){.type = AGENT_SYNC}, cancel, &reply);
    uint64_t packed[2];
    if (r == 0 && reply.payload.len != sizeof(packed))
        r = -EIO;
    if (r < 0)
        return r;
    memcpy(packed, reply.payload.data, sizeof(packed));
    if (le64toh(packed[1]) > 999999999)
        return -EIO;
    *ret_s = (int64_t)le64toh(packed[0]);
    *ret_ns = (uint32_t)le64toh(packed[1]);
    return 0;
}

/* ---- life --------------------------------------------------------------------------- */

static void agent_hold(struct contents *contents)
{
    agent_volume_hold(volume_of(contents));
}

static void agent_let_go(struct contents *contents)
{
    agent_volume_let_go(volume_of(contents));
}

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
    .sync = agent_sync,
    .hold = agent_hold,
    .let_go = agent_let_go,
    .free = agent_free,
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
