/* SPDX-License-Identifier: MIT */
#include "job/again.h"

#include "base/fd.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Copied at once of what is no frame. */
#define PIECE_BYTES ((size_t)64 << 10)

bool again_is_same(const struct pack *pack)
{
    uint64_t count = frames_count(pack->frames);
    if (!pack->earlier || !pack->known || earlier_place(pack->earlier, count) >= 0)
        return false;
    for (uint64_t i = 0; i < count; i++)
        if (pack->known[i].from < 0 || pack->known[i].from != earlier_place(pack->earlier, i))
            return false;
    return true;
}

/* On the way through the earlier one. */
struct copying {
    const struct pack *pack;
    bool is_shared; /* the file has its blocks already */
    uint64_t at;
    uint64_t begun; /* as fd_begin_writing's */
};

static int write_bytes(struct copying *copying, const void *data, size_t bytes)
{
    int fd = copying->pack->fd;
    int r = copying->is_shared ? 0 : fd_pwrite_all(fd, data, bytes, copying->at);
    copying->at += bytes;
    if (r == 0 && !copying->is_shared)
        fd_begin_writing(fd, &copying->begun, copying->at);
    return r;
}

/* What stands between the frames, and behind them: padding, and the table. */
static int copy_until(struct copying *copying, uint64_t end)
{
    char piece[PIECE_BYTES];
    int r = 0;
    while (r == 0 && copying->at < end) {
        size_t want =
            end - copying->at < sizeof(piece) ? (size_t)(end - copying->at) : sizeof(piece);
        ssize_t n = fd_pread_full(earlier_fd(copying->pack->earlier), piece, want, copying->at);
        r = n < 0 || (size_t)n < want ? -EBADMSG : write_bytes(copying, piece, want);
    }
    return r;
}

static int copy_frame(struct copying *copying, struct pack_frame *known)
{
    const struct pack *pack = copying->pack;
    struct seekable_frame frame;
    const void *data;
    seekable_frame(earlier_seekable(pack->earlier), (size_t)known->from, &frame);
    int r = copy_until(copying, frame.file_offset);
    if (r == 0)
        r = earlier_read(pack->earlier, known->key, (size_t)known->from, &data, &known->stored);
    if (r == 0)
        r = write_bytes(copying, data, frame.file_bytes);
    job_add_done(pack->job, frame.bytes);
    return r;
}

static int copy_all(struct copying *copying, uint64_t bytes)
{
    const struct pack *pack = copying->pack;
    int r = 0;
    for (uint64_t i = 0; i < frames_count(pack->frames) && r == 0; i++)
        r = cancel_is_raised(pack->cancel) ? -EINTR : copy_frame(copying, &pack->known[i]);
    return r < 0 ? r : copy_until(copying, bytes);
}

int again_run(const struct pack *pack, struct pack_result *ret_result, struct fail *why)
{
    struct index_about about;
    struct stat st;
    snapshot_about(earlier_snapshot(pack->earlier), &about);
    int from = earlier_fd(pack->earlier);
    if (fstat(from, &st) < 0)
        return fail_errno(why, errno, "the earlier snapshot");
    if ((uint64_t)st.st_size != about.archive_bytes)
        return fail_set(why, EBADMSG, "the earlier snapshot is cut short");
    struct copying copying = {.pack = pack, .is_shared = ioctl(pack->fd, FICLONE, from) == 0};
    int r = copy_all(&copying, about.archive_bytes);
    if (r < 0)
        return fail_errno(why, -r, r == -EINTR ? "interrupted" : "copying the earlier snapshot");
    *ret_result = (struct pack_result){
        .file_bytes = about.archive_bytes,
        .shared_bytes = copying.is_shared ? about.archive_bytes : 0,
        .taken_frames = frames_count(pack->frames),
    };
    memcpy(ret_result->sha256, about.sha256, sizeof(about.sha256));
    return 0;
}
