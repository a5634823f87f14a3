/* SPDX-License-Identifier: MIT */
#include "agent/walk.h"

#include "agent/scouts.h"

#include <string.h>

/* The records of one directory in memory. */
#define LEVEL_MAX_BYTES ((size_t)1 << 30)
#define PATH_MAX_BYTES ((size_t)1 << 20)

/* A directory that the walk is in. */
struct level {
    struct buf records; /* of its piece of that number, behind which there may be another */
    unsigned piece;
    bool has_more;
    size_t next; /* position in records */
    struct scouts_told told;
    size_t path_bytes; /* of the directory's own path, within walk->path */
    unsigned depth;
    struct level *parent;
};

struct walk {
    int root;
    unsigned flags;
    bool begun;
    bool is_at_directory; /* which is entered next */
    struct scouts *scouts;
    struct buf root_record;
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
    buf_init(&walk->root_record, LEVEL_MAX_BYTES);
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
    buf_done(&walk->root_record);
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
    if (level->told.position < level->next)
        level->told.position = level->next;
    if (level->told.position == level->records.len || level->told.count == SCOUTS_MAX_TOLD)
        return 0;
    cut_path(walk, level->path_bytes);
    return scouts_tell(walk->scouts, buf_string(&walk->path), level->depth + 1, &level->records,
                       &level->told);
}

/* Reads the records of the directory whose path walk->path is, or its next piece. */
static int read_level(struct walk *walk, struct level *level)
{
    level->next = 0;
    int r = scouts_list(walk->scouts, buf_string(&walk->path), level->depth, level->piece,
                        &level->records, &level->told);
    level->has_more = r > 0;
    return r < 0 ? r : 0;
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
    int r = read_level(walk, level);
    bool is_gone = r == -ENOENT || r == -ENOTDIR || r == -ELOOP;
    if (is_gone && level->parent) { /* an archive must not silently be empty, though */
        leave(walk);
        r = 0;
    }
    return r;
}

static int read_next_piece(struct walk *walk, struct level *level)
{
    level->piece++;
    cut_path(walk, level->path_bytes);
    return read_level(walk, level);
}

static int begin(struct walk *walk, struct file *ret_file)
{
    size_t position = 0;
    walk->begun = true;
    int r = inspect_file(walk->root, "", "", walk->flags, &walk->root_record);
    if (r == 0)
        r = file_read(walk->root_record.data, walk->root_record.len, &position, ret_file);
    walk->is_at_directory = r > 0;
    return r;
}

/* The next file of the directory that the walk is in: 1, or 0 at its end. */
static int next_of_level(struct walk *walk, struct level *level, struct file *ret_file)
{
    int r = 0;
    while (r == 0 && level->next == level->records.len && level->has_more)
        r = read_next_piece(walk, level);
    if (r == 0)
        r = tell_scouts(walk, level);
    if (r == 0)
        r = file_read(buf_string(&level->records), level->records.len, &level->next, ret_file);
    if (r <= 0)
        return r;
    r = set_path(walk, level, ret_file->name);
    if (r < 0)
        return r;
    ret_file->name = buf_string(&walk->path);
    walk->is_at_directory = S_ISDIR(ret_file->stat.mode);
    if (walk->is_at_directory && level->told.count > 0)
        level->told.count--;
    return 1;
}

int walk_step(struct walk *walk, struct file *ret_file)
{
    if (!walk->begun)
        return begin(walk, ret_file);
    int r = walk->is_at_directory ? enter(walk) : 0;
    walk->is_at_directory = false;
    while (r == 0 && walk->level) {
        r = next_of_level(walk, walk->level, ret_file);
        if (r == 0)
            leave(walk);
    }
    return r;
}

const char *walk_path(const struct walk *walk)
{
    return buf_string(&walk->path);
}

static int add_record(const struct file *file, struct buf *out)
{
    struct buf extents cleanup_buf;
    buf_init(&extents, FILE_MAX_EXTENTS * sizeof(struct file_extent));
    int r = 0;
    for (size_t i = 0; i < file->extent_count && r == 0; i++) {
        struct file_extent extent = file_extent_at(file, i);
        r = buf_add(&extents, &extent, sizeof(extent));
    }
    return r < 0 ? r
                 : file_write(out, file, (const struct file_extent *)(const void *)extents.data);
}

int walk_next(struct walk *walk, size_t max_bytes, struct buf *out)
{
    size_t begun = out->len;
    struct file file = {0};
    int r = 1;
    while (r > 0 && out->len - begun < max_bytes) {
        r = walk_step(walk, &file);
        int added = r > 0 ? add_record(&file, out) : 0;
        r = added < 0 ? added : r;
    }
    return r < 0 ? r : out->len > begun;
}
