/* SPDX-License-Identifier: MIT */
#include "job/catalog.h"

#include "tar/layout.h"

struct catalog {
    const struct now_archive *archive;
    const struct layout *layout;
    struct index_writer *writer;
    uint32_t *names; /* of each entry: how many it has; of a directory as stat(2) counts */
    struct buf xattrs;
    struct buf extents;
};

static int count_names(struct catalog *catalog)
{
    size_t count = layout_count(catalog->layout);
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
        } else if (!now_archive_is_missing(catalog->archive, i)) {
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
    for (size_t i = 0; i < layout_count(catalog->layout) && r == 0; i++)
        if (!now_archive_is_missing(catalog->archive, i))
            r = add_entry(catalog, i, why);
    return r;
}

int catalog_write(const struct now_archive *archive, struct index_writer *writer, struct fail *why)
{
    struct catalog catalog = {
        .archive = archive, .layout = now_archive_layout(archive), .writer = writer};
    buf_init(&catalog.xattrs, FILE_MAX_XATTR_BYTES);
    buf_init(&catalog.extents, FILE_MAX_EXTENTS * sizeof(struct file_extent));
    int r = add_all(&catalog, why);
    buf_done(&catalog.xattrs);
    buf_done(&catalog.extents);
    free(catalog.names);
    return r;
}
