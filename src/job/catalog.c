/* SPDX-License-Identifier: MIT */
#include "job/catalog.h"

#include "tar/layout.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

struct catalog {
    const struct now_archive *archive;
    const struct layout *layout;
    bool is_read;    /* it is known what has gone */
    uint32_t *names; /* of each entry: how many it has; of a directory as stat(2) counts */
    struct buf xattrs;
    struct buf extents;

    pthread_t thread;
    bool has_thread;
    struct cancel *cancel;
    atomic_bool given_up;
    int result; /* of the thread */
    struct fail why;
    struct index_writer *writer;
    char path[];
};

static bool is_missing(const struct catalog *catalog, size_t index)
{
    return catalog->is_read && now_archive_is_missing(catalog->archive, index);
}

/* ---- the entries ------------------------------------------------------------------- */

static int count_names(struct catalog *catalog)
{
    size_t count = layout_count(catalog->layout);
    free(catalog->names);
    catalog->names = calloc(count + 1, sizeof(*catalog->names));
    if (!catalog->names)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        struct layout_slot slot;
        struct tar_entry entry;
        layout_slot(catalog->layout, i, &slot);
        (void)layout_entry(catalog->layout, i, &entry);
        if (S_ISDIR(entry.mode)) {
            catalog->names[i] += 2;
            catalog->names[slot.parent] += i > 0;
        } else if (!is_missing(catalog, i)) {
            catalog->names[slot.link_to]++;
        }
    }
    return 0;
}

static int pack_xattrs(struct catalog *catalog, const struct tar_entry *entry)
{
    buf_clear(&catalog->xattrs);
    int r = 0;
    for (size_t i = 0; i < entry->xattr_count && r == 0; i++)
        r = file_xattr_add(&catalog->xattrs, entry->xattrs[i].name, entry->xattrs[i].value,
                           entry->xattrs[i].value_bytes);
    return r;
}

static int list_extents(struct catalog *catalog, size_t index)
{
    struct tar_extent run;
    buf_clear(&catalog->extents);
    int r = 0;
    for (size_t i = 0; r == 0 && layout_run(catalog->layout, index, i, &run); i++)
        r = buf_add(&catalog->extents,
                    &(struct file_extent){.offset = run.offset, .bytes = run.bytes},
                    sizeof(struct file_extent));
    return r;
}

static struct file_stat stat_of(const struct tar_entry *entry, const struct layout_slot *slot,
                                uint32_t names)
{
    return (struct file_stat){
        .mode = entry->mode,
        .nlink = names,
        .uid = (uint32_t)entry->uid,
        .gid = (uint32_t)entry->gid,
        .size_bytes = entry->size_bytes,
        .blocks = (slot->data_bytes - slot->map_bytes + 511) / 512,
        .ino = slot->index,
        .rdev_major = entry->dev_major,
        .rdev_minor = entry->dev_minor,
        .mtime = {.s = entry->mtime_s, .ns = entry->mtime_ns},
    };
}

/* A second name of a file says what the first one does, but for what is long. */
static int add_entry(struct catalog *catalog, size_t index, struct fail *why)
{
    struct layout_slot own, slot;
    struct tar_entry entry;
    layout_slot(catalog->layout, index, &own);
    layout_slot(catalog->layout, own.link_to, &slot);
    const char *name = layout_entry(catalog->layout, index, &entry);
    (void)layout_entry(catalog->layout, own.link_to, &entry);
    int r = pack_xattrs(catalog, &entry);
    if (r == 0)
        r = list_extents(catalog, own.link_to);
    if (r < 0)
        return r;
    bool is_first = own.link_to == index;
    struct index_entry add = {
        .id = index,
        .parent = own.parent,
        .target = own.link_to,
        .offset = slot.offset + slot.header_bytes + slot.map_bytes,
        .file = {.stat = stat_of(&entry, &slot, catalog->names[slot.index]),
                 .name = name,
                 .link_target = S_ISLNK(entry.mode) ? entry.link_target : "",
                 .xattrs = buf_string(&catalog->xattrs),
                 .xattr_bytes = is_first ? catalog->xattrs.len : 0,
                 .extent_count = is_first ? catalog->extents.len / sizeof(struct file_extent) : 0,
                 .is_sparse = is_first && slot.is_sparse},
    };
    return index_add(catalog->writer, &add,
                     (const struct file_extent *)(const void *)catalog->extents.data, why);
}

static int add_all(struct catalog *catalog, struct fail *why)
{
    int r = count_names(catalog);
    for (size_t i = 0; i < layout_count(catalog->layout) && r == 0; i++) {
        if (atomic_load(&catalog->given_up) || cancel_is_raised(catalog->cancel))
            r = fail_set(why, EINTR, "interrupted");
        else if (!is_missing(catalog, i))
            r = add_entry(catalog, i, why);
    }
    return r;
}

static int write_entries(struct catalog *catalog, struct fail *why)
{
    int r = index_writer_new(catalog->path, &catalog->writer, why);
    return r < 0 ? r : add_all(catalog, why);
}

/* ---- the thread ---------------------------------------------------------------------- */

static void *write_ahead(void *data)
{
    struct catalog *catalog = data;
    catalog->result = write_entries(catalog, &catalog->why);
    return NULL;
}

static void wait_for_thread(struct catalog *catalog)
{
    if (catalog->has_thread)
        (void)pthread_join(catalog->thread, NULL);
    catalog->has_thread = false;
}

struct catalog *catalog_begin(const struct now_archive *archive, const char *path,
                              struct cancel *cancel)
{
    size_t path_bytes = strlen(path) + 1;
    struct catalog *catalog = calloc(1, sizeof(*catalog) + path_bytes);
    if (!catalog)
        return NULL;
    memcpy(catalog->path, path, path_bytes);
    catalog->archive = archive;
    catalog->cancel = cancel;
    catalog->layout = now_archive_layout(archive);
    buf_init(&catalog->xattrs, FILE_MAX_XATTR_BYTES);
    buf_init(&catalog->extents, FILE_MAX_EXTENTS * sizeof(struct file_extent));
    catalog->has_thread = pthread_create(&catalog->thread, NULL, write_ahead, catalog) == 0;
    return catalog;
}

void catalog_free(struct catalog *catalog)
{
    if (!catalog)
        return;
    atomic_store(&catalog->given_up, true);
    wait_for_thread(catalog);
    index_writer_free(catalog->writer);
    buf_done(&catalog->xattrs);
    buf_done(&catalog->extents);
    free(catalog->names);
    free(catalog);
}

static bool has_gaps(const struct catalog *catalog)
{
    for (size_t i = 0; i < layout_count(catalog->layout); i++)
        if (is_missing(catalog, i))
            return true;
    return false;
}

static int write_again(struct catalog *catalog, struct fail *why)
{
    index_writer_free(catalog->writer);
    catalog->writer = NULL;
    if (truncate(catalog->path, 0) < 0)
        return fail_errno(why, errno, "the index");
    return write_entries(catalog, why);
}

int catalog_end(struct catalog *catalog, struct index_writer **ret_writer, struct fail *why)
{
    bool is_written = catalog->has_thread;
    wait_for_thread(catalog);
    catalog->is_read = true;
    int r = catalog->result;
    if (r < 0 && why)
        *why = catalog->why;
    if (r == 0 && (!is_written || has_gaps(catalog)))
        r = write_again(catalog, why);
    if (r < 0)
        return r;
    *ret_writer = catalog->writer;
    catalog->writer = NULL;
    return 0;
}
