/* SPDX-License-Identifier: MIT */
#include "fs/tree.h"

#include <string.h>
#include <sys/sysmacros.h>

void tree_stat_dir(const struct tree *tree, mode_t mode, struct stat *ret_stat, double *ret_seconds)
{
    node_stat_made_up(ret_stat, S_IFDIR | mode, 0, &tree->mounted_at);
    *ret_seconds = DIR_SECONDS;
}

void tree_tell_refused(const struct tree *tree, const char *volume, const char *place,
                       const char *name, const char *why)
{
    const char *const parts[] = {volume, place, name};
    struct buf path cleanup_buf;
    buf_init(&path, 1024);
    int r = 0;
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts) && r >= 0; i++)
        if (parts[i])
            r = buf_printf(&path, "%s%s", path.len > 0 ? "/" : "", parts[i]);
    log_event(tree->log, "%s: refused: %s", path.len > 0 ? buf_string(&path) : ".", why);
}

void tree_tell_refused_below(const struct tree *tree, const char *volume, const char *place,
                             _Atomic int64_t *told_s, const char *why)
{
    int64_t now_s = time(NULL);
    if (atomic_exchange(told_s, now_s) != now_s)
        tree_tell_refused(tree, volume, place, NULL, why);
}

static struct timespec timespec_of(const struct file_time *time)
{
    return (struct timespec){.tv_sec = time->s, .tv_nsec = time->ns};
}

void tree_fill_stat(const struct file_stat *from, struct stat *st)
{
    st->st_mode = from->mode;
    st->st_nlink = from->nlink;
    st->st_uid = from->uid;
    st->st_gid = from->gid;
    st->st_rdev = makedev(from->rdev_major, from->rdev_minor);
    st->st_size = (off_t)from->size_bytes;
    st->st_blocks = (blkcnt_t)from->blocks;
    st->st_mtim = timespec_of(&from->mtime);
    st->st_ctim = timespec_of(&from->ctime);
    st->st_atim = timespec_of(&from->atime);
}

/* splitmix64's finisher: every bit of the input tells in every bit of the output. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t tree_hash(uint64_t a, uint64_t b)
{
    return mix(mix(a + 1) ^ b) >> 5;
}

uint64_t tree_hash_stat(const struct stat *st)
{
    uint64_t x = mix(mix(st->st_dev + 1) ^ st->st_ino);
    x = mix(x ^ (uint64_t)st->st_mtim.tv_sec);
    return mix(x ^ (uint64_t)st->st_mtim.tv_nsec) >> 5;
}

int tree_remove_kept(struct tree *tree, const char *volume, const char *name, struct fail *why)
{
    struct stat archive;
    bool is_there = store_stat(kept_store(tree->kept), volume, name, &archive) == 0;
    int r = kept_remove(tree->kept, volume, name, why);
    if (r == 0 && is_there)
        openings_forget(tree->openings, tree_hash_stat(&archive));
    return r;
}
