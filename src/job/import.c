/* SPDX-License-Identifier: MIT */
#include "job/import.h"

#include "base/fd.h"
#include "tar/check.h"
#include "tar/convert.h"

#include <string.h>

#define PIECE_BYTES ((size_t)256 * 1024)

/* Somewhere between: the spool's file has holes where the tar has zeros. */
struct spooled {
    int fd;
    uint64_t bytes;
};

static bool is_zeros(const char *data, size_t bytes)
{
    return bytes > 0 && data[0] == 0 && memcmp(data, data + 1, bytes - 1) == 0;
}

static int add_piece(struct spooled *spooled, const char *data, size_t bytes, struct fail *why)
{
    int r = is_zeros(data, bytes) ? 0 : fd_pwrite_all(spooled->fd, data, bytes, spooled->bytes);
    if (r < 0)
        return fail_errno(why, -r, "cannot write to the spool");
    spooled->bytes += bytes;
    return 0;
}

static int copy_all(struct tar_convert *convert, struct spooled *spooled, struct job *job,
                    struct cancel *cancel, struct fail *why)
{
    cleanup_free char *piece = malloc(PIECE_BYTES);
    if (!piece)
        return fail_errno(why, ENOMEM, "converting the archive");
    ssize_t n;
    while ((n = tar_convert_read(convert, piece, PIECE_BYTES, why)) > 0) {
        if (cancel_is_raised(cancel))
            return fail_set(why, EINTR, "interrupted");
        int r = add_piece(spooled, piece, (size_t)n, why);
        if (r < 0)
            return r;
        job_add_done(job, (uint64_t)n);
    }
    if (n < 0)
        return (int)n;
    if (ftruncate(spooled->fd, (off_t)spooled->bytes) < 0)
        return fail_errno(why, errno, "cannot write to the spool");
    return 0;
}

static int convert(const struct take_conf *conf, int fd, struct spooled *spooled,
                   struct cancel *cancel, struct fail *why)
{
    struct tar_convert *convert cleanup_tar_convert = NULL;
    int r = tar_convert_open(fd, "./", TAR_CONVERT_TO_KEEP, &convert, why);
    if (r == 0)
        r = copy_all(convert, spooled, conf->job, cancel, why);
    if (r == 0)
        job_set_total(conf->job, 2 * spooled->bytes);
    return r;
}

static int check(int fd, struct cancel *cancel, struct fail *why)
{
    struct tar_check *check cleanup_tar_check = NULL;
    return tar_check_run(fd, UINT64_MAX, cancel, &check, why);
}

int import_run(const struct take_conf *conf, struct spool *spool, int fd, struct cancel *cancel,
               struct take_result *ret_result, struct fail *why)
{
    int r = take_check_absent(conf, why);
    if (r == 0)
        r = check(fd, cancel, why);
    if (r < 0)
        return r;
    cleanup_close int tar = spool_file(spool, why);
    if (tar < 0)
        return tar;
    r = convert(conf, fd, &(struct spooled){.fd = tar}, cancel, why);
    return r < 0 ? r : take_tar(conf, tar, cancel, ret_result, why);
}
