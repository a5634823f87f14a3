/* SPDX-License-Identifier: MIT */
#include "job/spool.h"

#include "base/fd.h"

#include <string.h>

struct spool {
    char *dir;
};

int spool_open(const char *dir, struct spool **ret_spool, struct fail *why)
{
    int r = fd_make_dirs(dir, why);
    if (r < 0)
        return r;
    cleanup_close int probe = fd_unnamed_file(dir, why);
    if (probe < 0)
        return probe;
    struct spool *spool = calloc(1, sizeof(*spool));
    if (!spool || !(spool->dir = strdup(dir))) {
        free(spool);
        return fail_errno(why, ENOMEM, "%s", dir);
    }
    *ret_spool = spool;
    return 0;
}

void spool_close(struct spool *spool)
{
    if (!spool)
        return;
    free(spool->dir);
    free(spool);
}

int spool_file(struct spool *spool, struct fail *why)
{
    return fd_unnamed_file(spool->dir, why);
}

int spool_statvfs(struct spool *spool, struct statvfs *ret_stat)
{
    return statvfs(spool->dir, ret_stat) == 0 ? 0 : -errno;
}
