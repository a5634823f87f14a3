/* SPDX-License-Identifier: MIT */
/*
 * engine/attach.h, attach_take: the first byte says in what pieces the rest comes.
 * However it is cut, the same comes out, and no more than went in.
 */
#include "fuzz.h"

#include "engine/attach.h"

#define OUT_BYTES ((size_t)4096)
#define ERR_BYTES ((size_t)100)

/* In pieces of so many bytes; what fails ends it. */
static int take_all(const uint8_t *data, size_t size, size_t piece, struct buf *out,
                    struct buf *err)
{
    struct attach_state state = {0};
    int r = 0;
    buf_init(out, OUT_BYTES);
    buf_init(err, ERR_BYTES);
    for (size_t done = 0; done < size && r == 0; done += piece) {
        size_t len = size - done < piece ? size - done : piece;
        r = attach_take(&state, data + done, len, out, err);
    }
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct buf whole_out cleanup_buf, whole_err cleanup_buf;
    struct buf cut_out cleanup_buf, cut_err cleanup_buf;
    int whole = take_all(data + 1, size - 1, size, &whole_out, &whole_err);
    int cut = take_all(data + 1, size - 1, data[0] + (size_t)1, &cut_out, &cut_err);
    require(whole == cut && (whole == 0 || whole == -EBADMSG || whole == -EMSGSIZE));
    require(whole_out.len + whole_err.len < size);
    require(whole_out.len <= OUT_BYTES && whole_err.len <= ERR_BYTES);
    if (whole == 0)
        require(whole_out.len == cut_out.len && whole_err.len == cut_err.len &&
                strcmp(buf_string(&whole_err), buf_string(&cut_err)) == 0 &&
                (!cut_out.len || memcmp(whole_out.data, cut_out.data, cut_out.len) == 0));
    return 0;
}
