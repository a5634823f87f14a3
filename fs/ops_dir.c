/* SPDX-License-Identifier: MIT */
/*
 * Reading directories.  An open directory holds the entries that were listed
 * and not yet given to the kernel; it is filled all at once where the directory
 * is small and fixed (node_ops.list), and piece by piece where it may be large
 * (list_next).  An entry's offset is its number; a lower one than was reached
 * (rewinddir(3), seekdir(3)) begins the listing anew.
 */
#include "fs/ops_call.h"

#include <stdio.h>
#include <string.h>

/* One entry that waits to be given out. */
struct waiting {
    struct node *child; /* NULL where only number and type are known */
    struct stat stat;
    double seconds;
    struct waiting *next;
    char name[];
};

struct open_dir {
    pthread_mutex_t lock;
    struct node *node;     /* as long as it is open */
    struct lister *lister; /* of a directory that streams */
    struct waiting *first;
    struct waiting **last;
    off_t next_offset; /* of the first that waits */
    bool begun;
    bool all_listed;
    int error; /* of the listing: told at the next reading, and until it begins anew */
};

/* ---- the open directory -------------------------------------------------------------- */

static struct open_dir *dir_of(const struct fuse_file_info *fi)
{
    return (struct open_dir *)open_file_of(fi)->handle;
}

static void drop_first(struct open_dir *dir)
{
    struct waiting *entry = dir->first;
    dir->first = entry->next;
    if (!dir->first)
        dir->last = &dir->first;
    node_unref(entry->child);
    free(entry);
}

static void close_listing(struct open_dir *dir)
{
    while (dir->first)
        drop_first(dir);
    if (dir->lister)
        dir->node->ops->list_close(dir->node, dir->lister);
    dir->lister = NULL;
    dir->begun = dir->all_listed = false;
    dir->error = 0;
}

static void dir_release(struct node *node, struct handle *handle)
{
    (void)node;
    struct open_dir *dir = (struct open_dir *)handle;
    close_listing(dir);
    (void)pthread_mutex_destroy(&dir->lock);
    free(dir);
}

/* Takes the child's reference. */
static int add_waiting(struct open_dir *dir, const char *name, struct node *child,
                       const struct stat *stat, double seconds)
{
    size_t name_bytes = strlen(name) + 1;
    struct waiting *entry = malloc(sizeof(*entry) + name_bytes);
    if (!entry) {
        node_unref(child);
        return -ENOMEM;
    }
    *entry = (struct waiting){.child = child, .stat = *stat, .seconds = seconds};
    memcpy(entry->name, name, name_bytes);
    *dir->last = entry;
    dir->last = &entry->next;
    return 0;
}

static int take_child(void *data, const char *name, struct node *child, const struct stat *stat,
                      double seconds)
{
    return add_waiting(data, name, child, stat, seconds);
}

static int take_name(void *data, const char *name, uint64_t ino, mode_t type)
{
    struct stat stat = {.st_ino = ino, .st_mode = type};
    return add_waiting(data, name, NULL, &stat, 0);
}

static int begin_listing(struct open_dir *dir, const struct request *request)
{
    close_listing(dir);
    dir->next_offset = 0;
    dir->begun = true;
    int r = take_name(dir, ".", dir->node->ino, S_IFDIR);
    if (r == 0)
        r = take_name(dir, "..", dir->node->ino, S_IFDIR);
    if (r == 0 && dir->node->ops->list_open)
        return dir->node->ops->list_open(dir->node, request, &dir->lister);
    dir->all_listed = true;
    return r == 0 ? node_list(dir->node, take_name, dir) : r;
}

/* Makes sure that an entry waits, unless there are no more. */
static int list_more(struct open_dir *dir, const struct request *request)
{
    while (dir->error == 0 && !dir->first && !dir->all_listed) {
        int r = dir->node->ops->list_next(dir->node, dir->lister, request, take_child, dir);
        dir->all_listed = r == 0;
        dir->error = r < 0 ? r : 0;
    }
    return dir->first ? 0 : dir->error;
}

/* Puts the entry of that offset first. */
static int go_to(struct open_dir *dir, off_t offset, const struct request *request)
{
    int r = 0;
    if (!dir->begun || offset < dir->next_offset)
        r = begin_listing(dir, request);
    if (r < 0)
        close_listing(dir);
    while (r == 0 && dir->next_offset < offset) {
        r = list_more(dir, request);
        if (!dir->first)
            break;
        drop_first(dir);
        dir->next_offset++;
    }
    return r;
}

/* ---- answers ---------------------------------------------------------------------------- */

/* The answer being filled. */
struct answer {
    char *bytes;
    size_t used, room;
};

static bool add_plain(struct call *call, struct answer *answer, const struct waiting *entry,
                      off_t next_offset)
{
    size_t left = answer->room - answer->used;
    size_t need = fuse_add_direntry(call->req, answer->bytes + answer->used, left, entry->name,
                                    &entry->stat, next_offset);
    answer->used += need <= left ? need : 0;
    return need <= left;
}

/* With attributes: each counts as a lookup.  Where they are not at hand, number 0
 * tells the kernel to ask (fuse_lowlevel.h, readdirplus). */
static bool add_plus(struct call *call, struct answer *answer, struct waiting *entry,
                     off_t next_offset)
{
    struct fuse_entry_param param = {.attr = entry->stat};
    size_t left = answer->room - answer->used;
    size_t need = fuse_add_direntry_plus(call->req, NULL, 0, entry->name, NULL, 0);
    if (need > left)
        return false;
    struct node *known cleanup_node =
        entry->child ? inode_table_lookup(call->front->inodes, node_ref(entry->child)) : NULL;
    if (known) {
        param.ino = known->ino;
        param.attr_timeout = param.entry_timeout = entry->seconds;
    }
    answer->used += fuse_add_direntry_plus(call->req, answer->bytes + answer->used, left,
                                           entry->name, &param, next_offset);
    return true;
}

static int fill(struct call *call, struct open_dir *dir, bool plus, struct answer *answer)
{
    int r = go_to(dir, call->offset, &call->request);
    while (r == 0) {
        r = list_more(dir, &call->request);
        if (r < 0 || !dir->first)
            break;
        bool added = plus ? add_plus(call, answer, dir->first, dir->next_offset + 1)
                          : add_plain(call, answer, dir->first, dir->next_offset + 1);
        if (!added)
            break;
        drop_first(dir);
        dir->next_offset++;
    }
    /* What is in the answer has been counted: it must go out; the error comes next time. */
    return answer->used ? 0 : r;
}

static void run_readdir(struct call *call)
{
    struct open_dir *dir = dir_of(&call->fi);
    cleanup_free char *bytes = malloc(call->size);
    struct answer answer = {.bytes = bytes, .room = call->size};
    int r = -ENOMEM;
    if (bytes) {
        scoped_lock(&dir->lock);
        r = fill(call, dir, call->flags, &answer);
    }
    call_quiet(call);
    if (r < 0)
        (void)fuse_reply_err(call->req, -r);
    else
        (void)fuse_reply_buf(call->req, answer.bytes, answer.used);
}

static void read_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, bool plus,
                     const struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, run_readdir))
        return;
    call.fi = *fi;
    call.size = size;
    call.offset = offset;
    call.flags = plus;
    call_dispatch(&call, NODE_WAITS_LIST);
}

void ops_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                 struct fuse_file_info *fi)
{
    read_dir(req, ino, size, offset, false, fi);
}

void ops_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    read_dir(req, ino, size, offset, true, fi);
}

/* NULL: out of memory. */
static struct open_file *open_dir(struct front *front, struct node *node)
{
    struct open_dir *dir = calloc(1, sizeof(*dir));
    if (!dir)
        return NULL;
    (void)pthread_mutex_init(&dir->lock, NULL);
    dir->node = node;
    dir->last = &dir->first;
    struct handle *handle = (struct handle *)dir;
    struct open_file *file = open_files_add(front->open_files, node, handle, dir_release);
    if (!file)
        dir_release(node, handle);
    return file;
}

void ops_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, NULL))
        return;
    struct open_file *file = open_dir(call.front, call.node);
    fi->fh = (uint64_t)(uintptr_t)file;
    if (!file)
        call_fail(&call, -ENOMEM);
    else if (fuse_reply_open(req, fi) == -ENOENT)
        open_files_close(call.front->open_files, file);
    call_done(&call);
}

void ops_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct front *front = fuse_req_userdata(req);
    (void)ino;
    open_files_close(front->open_files, open_file_of(fi));
    (void)fuse_reply_err(req, 0);
}
