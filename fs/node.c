/* SPDX-License-Identifier: MIT */
#include "fs/node.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

pid_t request_process(const struct request *request)
{
    char path[64], line[256];
    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)request->thread);
    FILE *file = fopen(path, "re");
    if (!file)
        return request->thread;
    int process = (int)request->thread;
    while (fgets(line, sizeof(line), file) && sscanf(line, "Tgid: %d", &process) != 1)
        ;
    (void)fclose(file);
    return process;
}

void node_init(struct node *node, const struct node_ops *ops, uint64_t ino)
{
    node->ops = ops;
    node->ino = ino;
    node->waits = ops->waits;
    atomic_init(&node->refs, 1);
}

struct node *node_ref(struct node *node)
{
    atomic_fetch_add(&node->refs, 1);
    return node;
}

void node_unref(struct node *node)
{
    if (node && atomic_fetch_sub(&node->refs, 1) == 1)
        node->ops->free(node);
}

bool node_may_wait(const struct node *node, unsigned operation)
{
    return node->waits & operation;
}

static struct stat default_stat(const struct node *node)
{
    return (struct stat){.st_ino = node->ino,
                         .st_nlink = 1,
                         .st_uid = geteuid(),
                         .st_gid = getegid(),
                         .st_blksize = NODE_BLOCK_BYTES};
}

void node_stat_made_up(struct stat *st, mode_t mode, uint64_t size, const struct timespec *mtime)
{
    st->st_mode = mode;
    st->st_nlink = S_ISDIR(mode) ? 2 : 1;
    st->st_size = (off_t)size;
    st->st_blocks = (st->st_size + 511) / 512;
    st->st_atim = st->st_ctim = st->st_mtim = *mtime;
}

int node_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                 double *ret_seconds)
{
    struct stat st = default_stat(node);
    double seconds = 0;
    int r = node->ops->getattr(node, request, &st, &seconds);
    if (r < 0)
        return r;
    assert(st.st_mode & S_IFMT);
    *ret_stat = st;
    *ret_seconds = seconds;
    return 0;
}

int node_peek(struct node *node, const struct request *request, struct stat *ret_stat,
              double *ret_seconds)
{
    if (!node_may_wait(node, NODE_WAITS_GETATTR))
        return node_getattr(node, request, ret_stat, ret_seconds);
    struct stat st = default_stat(node);
    node->ops->peek(node, &st);
    assert(st.st_mode & S_IFMT);
    *ret_stat = st;
    *ret_seconds = 0;
    return 0;
}

int node_lookup(struct node *dir, const struct request *request, const char *name,
                struct node **ret_child, double *ret_seconds)
{
    if (!dir->ops->lookup)
        return -ENOTDIR;
    if (strlen(name) > NAME_MAX)
        return -ENAMETOOLONG;
    *ret_seconds = 0;
    return dir->ops->lookup(dir, request, name, ret_child, ret_seconds);
}

int node_list(struct node *dir, node_emit_fn *emit, void *data)
{
    return dir->ops->list ? dir->ops->list(dir, emit, data) : -ENOTDIR;
}

/* After EXDEV and ENOTSUP a program goes another way, and nobody asks why. */
static int refuse(struct node *node, const char *name, int r)
{
    if (node->ops->tell_refused && r != -EXDEV && r != -ENOTSUP)
        node->ops->tell_refused(node, name);
    return r;
}

int node_refuse(struct node *node, const char *name, int otherwise)
{
    return refuse(node, name, node->ops->refuse_change ? -node->ops->refuse_change : otherwise);
}

int node_refuse_create(struct node *dir, const char *name)
{
    if (!dir->ops->lookup)
        return -ENOTDIR;
    return refuse(dir, name, dir->ops->refuse_create ? -dir->ops->refuse_create : -EROFS);
}

int node_create(struct node *dir, const char *name, int flags, mode_t mode, struct node **ret_child,
                struct opened *ret_opened)
{
    if (!dir->ops->create)
        return node_refuse_create(dir, name);
    return dir->ops->create(dir, name, flags, mode, ret_child, ret_opened);
}

int node_mkdir(struct node *dir, const struct request *request, const char *name,
               struct node **ret_child)
{
    return dir->ops->mkdir ? dir->ops->mkdir(dir, request, name, ret_child)
                           : node_refuse_create(dir, name);
}

int node_rmdir(struct node *dir, const char *name)
{
    return dir->ops->rmdir ? dir->ops->rmdir(dir, name) : node_refuse(dir, name, -EPERM);
}

int node_unlink(struct node *dir, const char *name)
{
    return dir->ops->unlink ? dir->ops->unlink(dir, name) : node_refuse(dir, name, -EPERM);
}

int node_rename(struct node *dir, const struct request *request, const char *from, const char *to,
                bool no_replace)
{
    return dir->ops->rename ? dir->ops->rename(dir, request, from, to, no_replace)
                            : node_refuse(dir, from, -EPERM);
}

int node_open(struct node *node, const struct request *request, int flags,
              struct opened *ret_opened)
{
    if (!node->ops->open)
        return node->ops->lookup ? -EISDIR : -EACCES;
    if (!node->ops->write && (flags & O_ACCMODE) != O_RDONLY)
        return refuse(node, NULL, node->ops->refuse_writing ? -node->ops->refuse_writing : -EROFS);
    return node->ops->open(node, request, flags, ret_opened);
}

ssize_t node_read(struct node *node, struct handle *handle, const struct request *request,
                  void *data, size_t len, uint64_t offset)
{
    if (!node->ops->read)
        return -EBADF;
    ssize_t n = node->ops->read(node, handle, request, data, len, offset);
    assert(n <= (ssize_t)len);
    return n;
}

ssize_t node_write(struct node *node, struct handle *handle, const void *data, size_t len,
                   uint64_t offset)
{
    return node->ops->write ? node->ops->write(node, handle, data, len, offset) : -EROFS;
}

int node_flush(struct node *node, struct handle *handle, const struct request *request)
{
    return node->ops->flush ? node->ops->flush(node, handle, request) : 0;
}

void node_release(struct node *node, struct handle *handle)
{
    if (node->ops->release)
        node->ops->release(node, handle);
}

int node_truncate(struct node *node, uint64_t size)
{
    return node->ops->truncate ? node->ops->truncate(node, size) : refuse(node, NULL, -EROFS);
}

int node_set_times(struct node *node, const struct timespec *mtime, bool is_now)
{
    return node->ops->set_times ? node->ops->set_times(node, mtime, is_now)
                                : node_refuse(node, NULL, -EPERM);
}

int node_set_mode(struct node *node, mode_t mode)
{
    return node->ops->set_mode ? node->ops->set_mode(node, mode) : node_refuse(node, NULL, -EPERM);
}

int node_set_owner(struct node *node)
{
    return node->ops->set_mode ? 0 : node_refuse(node, NULL, -EPERM);
}

int64_t node_seek(struct node *node, struct handle *handle, const struct request *request,
                  uint64_t offset, int whence)
{
    return node->ops->seek ? node->ops->seek(node, handle, request, offset, whence) : -EINVAL;
}

int node_readlink(struct node *node, const struct request *request, struct buf *out)
{
    return node->ops->readlink ? node->ops->readlink(node, request, out) : -EINVAL;
}

int node_get_xattr(struct node *node, const struct request *request, const char *name,
                   struct buf *out)
{
    return node->ops->get_xattr ? node->ops->get_xattr(node, request, name, out) : -ENODATA;
}

int node_list_xattrs(struct node *node, const struct request *request, struct buf *out)
{
    return node->ops->list_xattrs ? node->ops->list_xattrs(node, request, out) : 0;
}
