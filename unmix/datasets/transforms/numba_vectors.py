"""Vector operations of the resampling, emitted as LLVM's vector instructions, since numba makes none of such loops.

LLVM turns them into what the processor has: AVX-512, AVX2, SSE, NEON. Arrays are contiguous; an index counts their
elements as if they were flat, is uint64 and is not checked.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from functools import partial, reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 16  # floats that mix_rows takes at a time
GROUP = 4  # pixels, and rows of them, that mix_two and mix_four take at a time
SPREAD = 8  # pixels that spread_planes and spread_bytes take at a time
DEPTH = 4  # floats of a pixel: red, green, blue, and one that is not looked at
AT, WEIGHT = types.uint64, types.float32
FLOAT, INT = ir.FloatType(), ir.IntType(32)
FAST = ('fast',)


class _Emitter:
    """Emits instructions on the arguments of one call; arrays are known by their number among these."""

    def __init__(self, context, builder, signature, args):
        self.context, self.builder, self.types, self.args = context, builder, signature.args, args

    def address(self, array, index):
        data = self.context.make_array(self.types[array])(self.context, self.builder, self.args[array]).data
        return self.builder.gep(data, [index])

    def element(self, array, index):
        return self.builder.load(self.address(array, index))

    def load(self, array, index, lanes):
        kind = self.context.get_data_type(self.types[array].dtype)
        address = self.builder.bitcast(self.address(array, index), ir.VectorType(kind, lanes).as_pointer())
        return self.builder.load(address, align=4 if kind == FLOAT else 1)

    def store(self, vector, array, index, add=False):
        address = self.builder.bitcast(self.address(array, index), vector.type.as_pointer())
        if add:
            vector = self.builder.fadd(vector, self.builder.load(address, align=4), flags=FAST)
        self.builder.store(vector, address, align=4)

    def shuffle(self, a, b, order):
        """Take elements of two vectors, those of the second counted on from the first's."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT, len(order)), order))

    def scaled_sum(self, vectors, numbers):
        """Emit the sum of vectors times numbers."""
        terms = []
        for vector, number in zip(vectors, numbers, strict=True):
            anything = ir.Constant(vector.type, ir.Undefined)
            first = self.builder.insert_element(anything, number, ir.Constant(INT, 0))
            factor = self.shuffle(first, anything, [0] * vector.type.count)
            terms.append(self.builder.fmul(vector, factor, flags=FAST))
        return reduce(partial(self.builder.fadd, flags=FAST), terms)

    def sum(self, index, constant):
        return self.builder.add(index, ir.Constant(index.type, constant))


def _mix_rows(add):
    @intrinsic
    def mix(typing, out, o, source, a, b, p, q):
        def emit(context, builder, signature, args):
            emitter = _Emitter(context, builder, signature, args)
            rows = [emitter.load(2, index, LANES) for index in (args[3], args[4])]
            emitter.store(emitter.scaled_sum(rows, args[5:]), 0, args[1], add)
            return context.get_dummy_value()

        return types.void(out, AT, source, AT, AT, WEIGHT, WEIGHT), emit

    return mix


def _mix_pixels(taps, add):
    @intrinsic
    def mix(typing, out, o, plane, pitch, pixels, a, stride, first, weights, x, w, room):
        def emit(context, builder, signature, args):
            emitter = _Emitter(context, builder, signature, args)
            to, plane, pitch, start, stride = args[1], args[2], args[3], args[5], args[6]
            skip = [builder.zext(emitter.element(7, emitter.sum(args[9], i)), start.type) for i in range(GROUP)]
            row, weigh = args[10], []
            for _ in range(taps):
                weigh.append([emitter.element(8, emitter.sum(row, i)) for i in range(GROUP)])
                row = builder.add(row, args[11])
            for _ in range(GROUP):
                pixels = []
                for i in range(GROUP):
                    here = builder.add(start, skip[i])
                    near = [emitter.load(4, emitter.sum(here, DEPTH * k), DEPTH) for k in range(taps)]
                    pixels.append(emitter.scaled_sum(near, [weigh[k][i] for k in range(taps)]))
                # from four pixels of r, g, b, - to four r, four g, four b
                low = [emitter.shuffle(pixels[i], pixels[i + 1], [0, 4, 1, 5]) for i in (0, 2)]
                high = [emitter.shuffle(pixels[i], pixels[i + 1], [2, 6, 3, 7]) for i in (0, 2)]
                index = to
                for pair, order in ((low, [0, 1, 4, 5]), (low, [2, 3, 6, 7]), (high, [0, 1, 4, 5])):
                    emitter.store(emitter.shuffle(pair[0], pair[1], order), 0, index, add)
                    index = builder.add(index, plane)
                to, start = builder.add(to, pitch), builder.add(start, stride)
            return context.get_dummy_value()

        return types.void(out, AT, AT, AT, pixels, AT, AT, first, weights, AT, AT, AT), emit

    return mix


def _spread_planes(typing, out, o, source, a, b, c):
    """out[o + 4 * i : o + 4 * i + 3] = source[a + i], source[b + i], source[c + i] for 8 pixels i, as floats."""

    def emit(context, builder, signature, args):
        emitter = _Emitter(context, builder, signature, args)
        red, green, blue = (emitter.load(2, index, SPREAD) for index in args[3:])
        first, last = (emitter.shuffle(x, y, list(range(2 * SPREAD))) for x, y in ((red, green), (blue, blue)))
        pixels = emitter.shuffle(first, last, [k * SPREAD + i for i in range(SPREAD) for k in range(DEPTH)])
        emitter.store(_floats(builder, pixels), 0, args[1])
        return context.get_dummy_value()

    return types.void(out, AT, source, AT, AT, AT), emit


def _spread_bytes(typing, out, o, source, a):
    """out[o + 4 * i : o + 4 * i + 3] = source[a + 3 * i : a + 3 * i + 3] for 8 pixels i, as floats."""

    def emit(context, builder, signature, args):
        emitter = _Emitter(context, builder, signature, args)
        parts = [emitter.load(2, emitter.sum(args[3], k), 2 * SPREAD) for k in (0, SPREAD)]  # bytes 0 to 15, 8 to 23
        places = [3 * i + min(k, 2) for i in range(SPREAD) for k in range(DEPTH)]
        pixels = emitter.shuffle(parts[0], parts[1], [k if k < 2 * SPREAD else k + SPREAD for k in places])
        emitter.store(_floats(builder, pixels), 0, args[1])
        return context.get_dummy_value()

    return types.void(out, AT, source, AT), emit


def _floats(builder, vector):
    return vector if vector.type.element == FLOAT else builder.uitofp(vector, ir.VectorType(FLOAT, vector.type.count))


spread_planes: Any = intrinsic(_spread_planes)
spread_bytes: Any = intrinsic(_spread_bytes)
# mix_rows(out, o, source, a, b, p, q): for 16 i
#   out[o + i] = p * source[a + i] + q * source[b + i]; add_rows adds to it.
mix_rows, add_rows = _mix_rows(False), _mix_rows(True)
# mix_two(out, o, plane, pitch, pixels, a, stride, first, weights, x, w, room): for 4 rows r, 4 columns i, 3 channels c
#   out[o + c * plane + r * pitch + i] = sum of weights[w + k * room + i] * pixels[j + 4 * k + c] for 2 k
# with j = a + r * stride + first[x + i]; add_two adds to it; mix_four and add_four: for 4 k.
mix_two, add_two = _mix_pixels(2, False), _mix_pixels(2, True)
mix_four, add_four = _mix_pixels(4, False), _mix_pixels(4, True)
