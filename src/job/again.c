/* SPDX-License-Identifier: MIT */
#include "job/again.h"

#include "base/fd.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Copied at once, between looks at cancel. */
#define PIECE_BYTES ((size_t)8 << 20)

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

static int copy_by_hand(int from, int to, off_t offset, size_t len)
{
    cleanup_free char *piece = malloc(len);
    if (!piece)
        return -ENOMEM;
    ssize_t n = fd_pread_full(from, piece, len, (uint64_t)offset);
    if (n < 0 || (size_t)n < len)
        return -EBADMSG;
    return fd_pwrite_all(to, piece, len, (uint64_t)offset);
}

/* copy_file_range(2), where the kernel has it for these files. */
static int copy_piece(int from, int to, uint64_t at, size_t len)
{
    off_t in = (off_t)at;
    off_t out = (off_t)at;
    while (len > 0) {
        ssize_t n = copy_file_range(from, &in, to, &out, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == ENOSPC || errno == EDQUOT))
            return -errno;
        if (n <= 0) /* also to learn which of the two cannot be read or written */
            return copy_by_hand(from, to, in, len);
        len -= (size_t)n;
    }
    return 0;
}

/* total: what the job is to do, in bytes of the archive as it is decompressed. */
static int copy_all(const struct pack *pack, uint64_t bytes, uint64_t total)
{
    int from = earlier_fd(pack->earlier);
    uint64_t told = 0;
    for (uint64_t at = 0; at < bytes;) {
        size_t len = bytes - at < PIECE_BYTES ? (size_t)(bytes - at) : PIECE_BYTES;
        int r = cancel_is_raised(pack->cancel) ? -EINTR : copy_piece(from, pack->fd, at, len);
        if (r < 0)
            return r;
        /* The disk begins now with what fsync(2) would else wait for. */
        (void)sync_file_range(pack->fd, (off_t)at, (off_t)len, SYNC_FILE_RANGE_WRITE);
        at += len;
        uint64_t done =
            at == bytes ? total : (uint64_t)((double)at / (double)bytes * (double)total);
        job_add_done(pack->job, done - told);
        told = done;
    }
    return 0;
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
    uint64_t total = seekable_total_bytes(earlier_seekable(pack->earlier));
    bool is_shared = ioctl(pack->fd, FICLONE, from) == 0;
    int r = is_shared ? 0 : copy_all(pack, about.archive_bytes, total);
    if (is_shared)
        job_add_done(pack->job, total);
    if (r < 0)
        return fail_errno(why, -r, r == -EINTR ? "interrupted" : "copying the earlier snapshot");
    *ret_result = (struct pack_result){
        .file_bytes = about.archive_bytes,
        .shared_bytes = is_shared ? about.archive_bytes : 0,
        .taken_frames = frames_count(pack->frames),
    };
    memcpy(ret_result->sha256, about.sha256, sizeof(about.sha256));
    return 0;
}
