/* SPDX-License-Identifier: MIT */
#include "agent/walk.h"

#include "agent/scouts.h"

#include <string.h>

/* The records of one directory in memory. */
#define LEVEL_MAX_BYTES ((size_t)1 << 30)
#define PATH_MAX_BYTES ((size_t)1 << 20)

/* A directory that the walk is in. */
struct level {
    struct buf records;
    size_t next;       /* position in records */
    size_t told;       /* up to there the scouts know of its directories */
    size_t path_bytes; /* of the directory's own path, within walk->path */
    unsigned depth;
    struct level *parent;
};

struct walk {
    int root;
    unsigned flags;
    bool begun;
    struct scouts *scouts;
    struct buf path; /* of the current directory or file */
    struct level *level;
};

struct walk *walk_new(int root, unsigned flags)
{
    struct walk *walk cleanup_walk = calloc(1, sizeof(*walk));
    if (!walk)
        return NULL;
    walk->root = root;
    walk->flags = flags;
    buf_init(&walk->path, PATH_MAX_BYTES);
    walk->scouts = scouts_new(root, flags, LEVEL_MAX_BYTES);
    return walk->scouts ? take(walk) : NULL;
}

static void leave(struct walk *walk)
{
    struct level *level = walk->level;
    walk->level = level->parent;
    buf_done(&level->records);
    free(level);
}

void walk_free(struct walk *walk)
{
    if (!walk)
        return;
    while (walk->level)
        leave(walk);
    scouts_free(walk->scouts);
    buf_done(&walk->path);
    free(walk);
}

static void cut_path(struct walk *walk, size_t len)
{
    walk->path.len = len;
    if (walk->path.data)
        walk->path.data[len] = '\0';
}

/* The path of a file in the directory. */
static int set_path(struct walk *walk, const struct level *level, const char *name)
{
    cut_path(walk, level->path_bytes);
    int r = walk->path.len ? buf_add(&walk->path, "/", 1) : 0;
    return r < 0 ? r : buf_add_string(&walk->path, name);
}

/* Tells the scouts of the next directories within the one that was entered last. */
static int tell_scouts(struct walk *walk, struct level *level)
{
    int r = 1;
    if (level->told < level->next)
        level->told = level->next;
    while (level->told < level->records.len && scouts_have_room(walk->scouts)) {
        struct file file;
        r = file_read(level->records.data, level->records.len, &level->told, &file);
        if (r > 0 && S_ISDIR(file.stat.mode)) {
            r = set_path(walk, level, file.name);
            if (r == 0)
                scouts_expect(walk->scouts, buf_string(&walk->path), level->depth + 1);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

/* Goes into the directory that walk->path names.  One that is gone, or is none
 * any more, is passed over: its own record was told already. */
static int enter(struct walk *walk)
{
    struct level *level = calloc(1, sizeof(*level));
    if (!level)
        return -ENOMEM;
    buf_init(&level->records, LEVEL_MAX_BYTES);
    level->path_bytes = walk->path.len;
    level->parent = walk->level;
    level->depth = walk->level ? walk->level->depth + 1 : 0;
    walk->level = level;
    int r = scouts_list(walk->scouts, buf_string(&walk->path), &level->records);
    if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP) {
        leave(walk);
        r = 0;
    }
    return r;
}

static int add_root(struct walk *walk, struct buf *out)
{
    walk->begun = true;
    int r = inspect_file(walk->root, "", "", walk->flags, out);
    return r < 0 ? r : enter(walk);
}

static int add_record(struct walk *walk, struct file *file, struct buf *out)
{
    int r = set_path(walk, walk->level, file->name);
    if (r < 0)
        return r;
    struct buf extents cleanup_buf;
    buf_init(&extents, FILE_MAX_EXTENTS * sizeof(struct file_extent));
    for (size_t i = 0; i < file->extent_count && r == 0; i++) {
        struct file_extent extent = file_extent_at(file, i);
        r = buf_add(&extents, &extent, sizeof(extent));
    }
    file->name = buf_string(&walk->path);
    if (r == 0)
        r = file_write(out, file, (const struct file_extent *)(const void *)extents.data);
    if (r == 0 && S_ISDIR(file->stat.mode))
        r = enter(walk);
    return r;
}

static int step(struct walk *walk, struct buf *out)
{
    struct level *level = walk->level;
    struct file file;
    int r = tell_scouts(walk, level);
    if (r == 0)
        r = file_read(buf_string(&level->records), level->records.len, &level->next, &file);
    if (r > 0)
        return add_record(walk, &file, out);
    leave(walk);
    return r;
}

int walk_next(struct walk *walk, size_t max_bytes, struct buf *out, const char **ret_path)
{
    size_t begun = out->len;
    int r = walk->begun ? 0 : add_root(walk, out);
    while (r == 0 && walk->level && out->len - begun < max_bytes)
        r = step(walk, out);
    if (ret_path)
        *ret_path = buf_string(&walk->path);
    return r < 0 ? r : out->len > begun;
}
