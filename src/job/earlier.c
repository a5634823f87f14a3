/* SPDX-License-Identifier: MIT */
#include "job/earlier.h"

#include "base/fd.h"

#include <endian.h>
#include <string.h>
#include <xxhash.h>

struct known {
    uint8_t packed[INDEX_KEY_BYTES];
    uint64_t number;
};

struct earlier {
    char *name;
    struct snapshot *snapshot;
    struct known *known; /* sorted by packed */
    size_t count;
    size_t room;
    uint32_t *places; /* of the frames with something in them, in the table */
    size_t place_count;
    char *stored; /* a frame's bytes, of so much room */
    size_t stored_room;
};

uint64_t frame_stored_hash(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

void frame_key_pack(struct frame_key key, uint64_t number, const struct seekable_frame *frame,
                    uint64_t stored, uint8_t ret_packed[INDEX_KEY_BYTES])
{
    const uint64_t bound[] = {
        htole64(key.low),      htole64(key.high),          htole64(number),
        htole64(frame->bytes), htole64(frame->file_bytes), htole64(frame->checksum),
        htole64(stored)};
    uint64_t packed[] = {bound[0], htole64(XXH3_64bits(bound, sizeof(bound)))};
    memcpy(ret_packed, packed, sizeof(packed));
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, INDEX_KEY_BYTES);
}

/* Of index_frames. */
static int add_known(void *data, uint64_t number, const uint8_t key[INDEX_KEY_BYTES])
{
    struct earlier *earlier = data;
    if (earlier->count == earlier->room) {
        size_t room = earlier->room + earlier->room / 2 + 64;
        struct known *known = reallocarray(earlier->known, room, sizeof(*known));
        if (!known)
            return -ENOMEM;
        earlier->known = known;
        earlier->room = room;
    }
    struct known *known = &earlier->known[earlier->count++];
    memcpy(known->packed, key, INDEX_KEY_BYTES);
    known->number = number;
    return 0;
}

static int find_places(struct earlier *earlier)
{
    const struct seekable *seekable = snapshot_seekable(earlier->snapshot);
    size_t count = seekable_count(seekable);
    earlier->places = calloc(count + 1, sizeof(*earlier->places));
    if (!earlier->places)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        struct seekable_frame frame;
        seekable_frame(seekable, i, &frame);
        if (frame.bytes > 0)
            earlier->places[earlier->place_count++] = (uint32_t)i;
    }
    return 0;
}

static int open_newest(struct earlier *earlier, struct store *store, const char *volume,
                       struct snapshot_cache *cache, struct fail *why)
{
    cleanup_free char *name = NULL;
    int r = store_newest(store, volume, &name, why);
    if (r < 0)
        return r;
    cleanup_free char *path = store_index_path(store, volume, name);
    if (!path)
        return -ENOMEM;
    int fd = store_open_archive(store, volume, name, why);
    if (fd < 0)
        return fd;
    r = snapshot_open(fd, path, cache, &earlier->snapshot, why);
    if (r == 0 && !seekable_has_checksums(snapshot_seekable(earlier->snapshot)))
        return -ENODATA;
    if (r == 0)
        r = index_frames(snapshot_index(earlier->snapshot), add_known, earlier, why);
    earlier->name = take(name);
    return r < 0 ? r : find_places(earlier);
}

int earlier_open(struct store *store, const char *volume, struct snapshot_cache *cache,
                 struct earlier **ret_earlier, struct fail *why)
{
    *ret_earlier = NULL;
    struct earlier *earlier cleanup_earlier = calloc(1, sizeof(*earlier));
    if (!earlier)
        return fail_errno(why, ENOMEM, "volume %s", volume);
    int r = open_newest(earlier, store, volume, cache, NULL);
    if (r == -ENOMEM)
        return fail_errno(why, ENOMEM, "volume %s", volume);
    if (r < 0) /* whatever is wrong with it is nothing to us */
        return 0;
    if (earlier->count > 0)
        qsort(earlier->known, earlier->count, sizeof(*earlier->known), compare);
    *ret_earlier = take(earlier);
    return 0;
}

void earlier_close(struct earlier *earlier)
{
    if (!earlier)
        return;
    snapshot_unref(earlier->snapshot);
    free(earlier->name);
    free(earlier->known);
    free(earlier->places);
    free(earlier->stored);
    free(earlier);
}

/* The first one whose half of the key is not below. */
static size_t lower_bound(const struct earlier *earlier, uint64_t half)
{
    size_t low = 0;
    size_t high = earlier->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (memcmp(earlier->known[middle].packed, &half, sizeof(half)) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* From i on, the next one of that half of the key; NULL: there is none. */
static const struct known *next_known(const struct earlier *earlier, uint64_t half, size_t i)
{
    if (i >= earlier->count)
        return NULL;
    const struct known *known = &earlier->known[i];
    return memcmp(known->packed, &half, sizeof(half)) == 0 ? known : NULL;
}

int64_t earlier_find(const struct earlier *earlier, struct frame_key key, uint64_t bytes)
{
    uint64_t half = htole64(key.low);
    const struct known *known;
    for (size_t i = lower_bound(earlier, half); (known = next_known(earlier, half, i)); i++) {
        struct seekable_frame frame;
        if (known->number >= earlier->place_count)
            continue;
        uint32_t place = earlier->places[known->number];
        seekable_frame(snapshot_seekable(earlier->snapshot), place, &frame);
        if (frame.bytes == bytes)
            return place;
    }
    return -1;
}

/* Reads what is stored of it. */
static int read_stored(struct earlier *earlier, const struct seekable_frame *frame)
{
    if (earlier->stored_room < frame->file_bytes) {
        free(take(earlier->stored));
        earlier->stored_room = 0;
        if (!(earlier->stored = malloc(frame->file_bytes)))
            return -ENOMEM;
        earlier->stored_room = frame->file_bytes;
    }
    ssize_t n =
        fd_pread_full(earlier_fd(earlier), earlier->stored, frame->file_bytes, frame->file_offset);
    return n < 0 || (size_t)n < frame->file_bytes ? -EBADMSG : 0;
}

/* What stands before a frame comes with it where blocks are shared. */
static int check_padding_before(struct earlier *earlier, size_t place)
{
    struct seekable_frame before;
    if (place == 0)
        return 0;
    seekable_frame(snapshot_seekable(earlier->snapshot), place - 1, &before);
    if (before.bytes > 0)
        return 0;
    if (before.file_bytes > 2 * SEEKABLE_BLOCK_MAX_BYTES)
        return -EBADMSG;
    int r = read_stored(earlier, &before);
    return r == 0 && !seekable_is_padding(earlier->stored, before.file_bytes) ? -EBADMSG : r;
}

int earlier_read(struct earlier *earlier, struct frame_key key, size_t place, const void **ret_data,
                 uint64_t *ret_stored)
{
    struct seekable_frame frame;
    seekable_frame(snapshot_seekable(earlier->snapshot), place, &frame);
    int r = check_padding_before(earlier, place);
    if (r == 0)
        r = read_stored(earlier, &frame);
    if (r < 0)
        return r;
    uint64_t stored = frame_stored_hash(earlier->stored, frame.file_bytes);
    uint64_t half = htole64(key.low);
    const struct known *known;
    for (size_t i = lower_bound(earlier, half); (known = next_known(earlier, half, i)); i++) {
        uint8_t packed[INDEX_KEY_BYTES];
        frame_key_pack(key, known->number, &frame, stored, packed);
        if (earlier_place(earlier, known->number) == (int64_t)place &&
            compare(known->packed, packed) == 0) {
            *ret_data = earlier->stored;
            *ret_stored = stored;
            return 0;
        }
    }
    return -EBADMSG;
}

int64_t earlier_place(const struct earlier *earlier, uint64_t number)
{
    return number < earlier->place_count ? (int64_t)earlier->places[number] : -1;
}

const char *earlier_name(const struct earlier *earlier)
{
    return earlier->name;
}

const struct seekable *earlier_seekable(const struct earlier *earlier)
{
    return snapshot_seekable(earlier->snapshot);
}

struct snapshot *earlier_snapshot(const struct earlier *earlier)
{
    return earlier->snapshot;
}

int earlier_fd(const struct earlier *earlier)
{
    return snapshot_fd(earlier->snapshot);
}
