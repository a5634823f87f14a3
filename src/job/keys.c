/* SPDX-License-Identifier: MIT */
#include "job/keys.h"

#include <string.h>
#include <xxhash.h>
#include <zstd.h>

/* To be raised when the same key would stand for other bytes: store/codec.c, tar/header.c. */
#define KEYS_VERSION 2
#define NO_SLOT SIZE_MAX

/* What is hashed of a number; keys do not leave the machine's kind. */
#define ADD(state, value) add(state, &(value), sizeof(value))

struct keys {
    const struct layout *layout;
    struct file_time moment;
    uint64_t maker[4];
    XXH3_state_t *state;
    struct buf header;
    size_t slot; /* whose digest is: frames of one file follow one another */
    XXH128_hash_t digest;
};

static void add(XXH3_state_t *state, const void *data, size_t bytes)
{
    (void)XXH3_128bits_update(state, data, bytes);
}

struct keys *keys_new(const struct layout *layout, struct file_time moment, int level,
                      unsigned block_bytes)
{
    struct keys *keys cleanup_keys = calloc(1, sizeof(*keys));
    if (!keys)
        return NULL;
    buf_init(&keys->header, LAYOUT_HEADER_MAX_BYTES);
    keys->layout = layout;
    keys->moment = moment;
    keys->maker[0] = KEYS_VERSION;
    keys->maker[1] = (uint64_t)level;
    keys->maker[2] = ZSTD_versionNumber();
    keys->maker[3] = block_bytes;
    keys->slot = NO_SLOT;
    keys->state = XXH3_createState();
    return keys->state ? take(keys) : NULL;
}

void keys_free(struct keys *keys)
{
    if (!keys)
        return;
    (void)XXH3_freeState(keys->state);
    buf_done(&keys->header);
    free(keys);
}

static void add_file(const struct keys *keys, const struct layout_slot *slot)
{
    struct tar_extent run;
    ADD(keys->state, slot->dev);
    ADD(keys->state, slot->ino);
    ADD(keys->state, slot->size_bytes);
    ADD(keys->state, slot->ctime_s);
    ADD(keys->state, slot->ctime_ns);
    for (size_t i = 0; layout_run(keys->layout, slot->index, i, &run); i++) {
        ADD(keys->state, run.offset);
        ADD(keys->state, run.bytes);
    }
}

/* Hashes all that makes the slot. */
static int digest_slot(struct keys *keys, const struct layout_slot *slot)
{
    if (keys->slot == slot->index)
        return 0;
    buf_clear(&keys->header);
    int r = layout_header(keys->layout, slot->index, &keys->header);
    if (r < 0)
        return r;
    (void)XXH3_128bits_reset(keys->state);
    add(keys->state, keys->header.data, keys->header.len);
    if (slot->has_data || slot->is_sparse)
        add_file(keys, slot);
    keys->digest = XXH3_128bits_digest(keys->state);
    keys->slot = slot->index;
    return 0;
}

/* Whether whatever becomes of the file from now on will be seen.  Of another file system
 * than the root's nothing is known. */
static bool is_settled(const struct keys *keys, const struct layout_slot *slot, uint64_t root_dev)
{
    if (!slot->has_data)
        return true;
    bool is_before = slot->ctime_s < keys->moment.s ||
                     (slot->ctime_s == keys->moment.s && slot->ctime_ns < keys->moment.ns);
    return is_before && slot->dev == root_dev;
}

/* The part of a slot that a frame has. */
struct part {
    XXH128_hash_t digest;
    uint64_t from;
    uint64_t bytes;
};

static int add_slots(struct keys *keys, const struct frames_frame *frame, XXH3_state_t *state)
{
    struct layout_slot slot, root;
    uint64_t end = frame->offset + frame->bytes;
    layout_slot(keys->layout, 0, &root);
    bool found = layout_find(keys->layout, frame->offset, &slot) > 0;
    while (found && slot.offset < end) {
        if (!is_settled(keys, &slot, root.dev))
            return 0;
        int r = digest_slot(keys, &slot);
        if (r < 0)
            return r;
        uint64_t from = frame->offset > slot.offset ? frame->offset - slot.offset : 0;
        uint64_t slot_end = slot.offset + slot.slot_bytes;
        struct part part = {keys->digest, from,
                            (slot_end < end ? slot_end : end) - slot.offset - from};
        ADD(state, part);
        if (slot.index + 1 == layout_count(keys->layout))
            break;
        layout_slot(keys->layout, slot.index + 1, &slot);
    }
    return 1;
}

int keys_of(struct keys *keys, const struct frames_frame *frame, struct frame_key *ret_key)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        return -ENOMEM;
    (void)XXH3_128bits_reset(state);
    ADD(state, keys->maker);
    ADD(state, frame->bytes); /* with the end of the archive, or without */
    int r = add_slots(keys, frame, state);
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    (void)XXH3_freeState(state);
    if (r > 0)
        *ret_key = (struct frame_key){.low = hash.low64, .high = hash.high64};
    return r;
}
